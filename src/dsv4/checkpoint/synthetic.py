"""Random checkpoints of any configuration, streamed to disk.

What they are for: measuring, and testing with, the sizes of a real model without its weights.
Numbers come straight from random bytes (a table turns a byte into a normal number), so writing
is about as fast as the disk, and memory stays at a few buffers whatever the size.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator
from math import prod
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dsv4.checkpoint import layout
from dsv4.checkpoint.export import file_plan
from dsv4.checkpoint.layout import TensorSpec
from dsv4.checkpoint.writer import Progress, write_checkpoint
from dsv4.config import ModelConfig
from dsv4.errors import UsageError
from dsv4.numerics.formats import E4M3_MAX, encode_e4m3
from dsv4.numerics.quantized import FP4

STD = 0.02
"""Standard deviation of matrices, as models are initialised."""

_CHUNK = 1 << 24

# Byte -> e4m3 code of the normal quantile in the middle of its 256th, the largest being 448.
_QUANTILES = torch.special.ndtri((torch.arange(256, dtype=torch.float64) + 0.5) / 256)
_NORMAL_E4M3 = bytes(
    encode_e4m3(_QUANTILES * (E4M3_MAX / _QUANTILES[-1])).view(torch.uint8).tolist()
)
_E4M3_STD = E4M3_MAX / float(_QUANTILES[-1])
_FP4_STD = 2.93  # of all sixteen e2m1 values, equally often


def synth(
    config: ModelConfig,
    folder: Path | str,
    seed: int = 0,
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> None:
    """Write random weights of `config` in the released layout.

    Matrices have a standard deviation of about 0.02, norms are near one, routing tables are
    valid: activations stay finite. The same seed gives the same files. Raises CheckpointError
    as `writer.write_checkpoint` does.
    """
    if config.draft_stages:
        raise UsageError("draft stages have no released layout here", "drop the dspark_* keys")
    write_checkpoint(
        folder,
        file_plan(config),
        lambda spec: _random_pieces(config, spec, seed),
        config.to_released(),
        overwrite=overwrite,
        progress=progress,
    )


def _random_pieces(config: ModelConfig, spec: TensorSpec, seed: int) -> Iterator[Tensor]:
    """The values of one tensor, a buffer at a time; a tensor's own name seeds it."""
    own_seed = [seed, zlib.crc32(spec.name.encode())]
    bits = np.random.Generator(np.random.SFC64(own_seed))
    generator = torch.Generator().manual_seed(int(bits.integers(1 << 62)))
    if spec.name == layout.TOKEN_MAP:
        assert config.engram is not None
        yield torch.arange(config.vocab_size) % config.engram.compressed_vocab_size
        return
    if spec.dtype == torch.int64:
        yield from _routes(config, spec.shape, generator)
        return
    total = prod(spec.shape)
    for start in range(0, total, _CHUNK):
        count = min(_CHUNK, total - start)
        if spec.dtype == torch.int8:
            yield _bytes(bits, count).view(torch.int8)
        elif spec.dtype == torch.float8_e4m3fn:
            yield _bytes(bits, count, _NORMAL_E4M3).view(torch.float8_e4m3fn)
        elif spec.dtype == torch.float8_e8m0fnu:
            # The power of two nearest to the right size, or (as often) half of it.
            code = 127 + round(math.log2(STD / _element_std(config, spec.name)))
            low_bits = _bytes(bits, count).bitwise_and_(1)
            yield low_bits.add_(code - 1).view(torch.float8_e8m0fnu)
        else:
            mean, std = _moments(config, spec)
            values = torch.empty(count).normal_(mean, std, generator=generator)
            if spec.name.endswith(".scale"):
                values = values.abs_().clamp_min_(mean / 4)
            yield values.to(spec.dtype)


def _bytes(bits: np.random.Generator, count: int, table: bytes | None = None) -> Tensor:
    """`count` random bytes, each replaced through `table` if there is one. uint8 [count]."""
    words = bits.integers(0, 1 << 64, size=-(-count // 8), dtype=np.uint64)
    raw = words.view(np.uint8)[:count]
    if table is not None:
        raw = np.frombuffer(bytearray(raw.data).translate(table), dtype=np.uint8)
    return torch.from_numpy(raw)


def _element_std(config: ModelConfig, name: str) -> float:
    """Standard deviation of the elements that the scales `name` multiply."""
    fp4 = ".ffn.experts." in name and layout.expert_format(config) is FP4
    return _FP4_STD if fp4 else _E4M3_STD


def _moments(config: ModelConfig, spec: TensorSpec) -> tuple[float, float]:
    """Mean and standard deviation of a tensor that is stored plainly.

    | tensor                | mean | std | why                                              |
    |-----------------------|------|-----|--------------------------------------------------|
    | matrices              | 0    | .02 |                                                  |
    | norms, gates, hc scale| 1    | .1  |                                                  |
    | hc fn                 | 0    | 1/sqrt(inputs) | mixing coefficients of order one      |
    | hc base, sinks, ape   | 0    | .5  |                                                  |
    | router bias           | 0    | .05 | shifts some choices, does not decide them        |
    | float32 block scales  | s    | s/4 | s brings the elements to .02                     |
    """
    leaf = spec.name.rpartition(".")[2]
    if spec.name.endswith(".scale"):
        scale = STD / _element_std(config, spec.name)
        return scale, scale / 4
    if leaf.startswith("hc_"):
        kind = leaf.rpartition("_")[2]
        return {"fn": (0.0, spec.shape[-1] ** -0.5), "scale": (1.0, 0.1), "base": (0.0, 0.5)}[kind]
    if leaf in ("attn_sink", "ape"):
        return 0.0, 0.5
    if leaf == "bias":
        return 0.0, 0.05
    if leaf in ("q_weight", "k_weight"):
        return 1.0, 0.1
    return (1.0, 0.1) if len(spec.shape) == 1 else (0.0, STD)


def _routes(
    config: ModelConfig, shape: tuple[int, ...], generator: torch.Generator
) -> Iterator[Tensor]:
    """A hash layer's table [V, K]: distinct experts for each token id."""
    experts, (vocabulary, chosen) = config.n_routed_experts, shape
    first = torch.randint(experts, (vocabulary, 1), generator=generator)
    # Steps up to E/K keep first, first + step, ... apart, also around the end.
    step = torch.randint(1, experts // chosen + 1, (vocabulary, 1), generator=generator)
    yield (first + step * torch.arange(chosen)) % experts
