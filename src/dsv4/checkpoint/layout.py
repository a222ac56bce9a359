"""Which tensors a checkpoint of a configuration holds: names, shapes, formats and shards.

One table for everything that reads or writes weights. Names are the released ones (no `model.`
prefix); a block-scaled weight `x.weight` is accompanied by its scales `x.scale`. Sizes follow
the released Flash and Pro folders exactly, so counting this table counts those.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain
from math import prod

import torch

from dsv4.config import CSA, HCA, ModelConfig
from dsv4.engram import CONV_KERNEL
from dsv4.numerics.quantized import FP4, FP8, FP8_F32, FP8_ROWS, Format

TOKEN_MAP = "ngrams.token_map"
"""Canonical ids of all tokens. V4.1 does not store them: they follow from its tokenizer."""

BF16, F32, I64 = torch.bfloat16, torch.float32, torch.int64

Storage = Format | torch.dtype
"""How one weight is stored: in a block-scaled format, or as plain numbers."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One tensor as a file stores it."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True, slots=True)
class Parameter:
    """One weight of the model: its logical shape and how the released layout stores it.

    `format` is the block-scaled format of a quantised matrix, None for a plain tensor of `dtype`.
    `expert` marks the routed experts, whose format a configuration chooses.
    """

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype = BF16
    format: Format | None = None
    expert: bool = False

    @property
    def scale_name(self) -> str:
        """Name of the tensor with the block scales of this weight."""
        return self.name.removesuffix(".weight") + ".scale"

    def stored(self) -> tuple[TensorSpec, ...]:
        """The one tensor, or the elements and their scales."""
        if self.format is None:
            return (TensorSpec(self.name, self.shape, self.dtype),)
        out, width = self.shape
        data = self.format.data_shape((out, width))
        scale = self.format.scale_shape((out, width))
        return (
            TensorSpec(self.name, data, self.format.data_dtype),
            TensorSpec(self.scale_name, scale, self.format.scale),
        )


def first_layers(config: ModelConfig, layers: int) -> ModelConfig:
    """`config` cut to its first `layers` layers; the MTP block stays."""
    return replace(
        config,
        num_hidden_layers=layers,
        num_hash_layers=min(config.num_hash_layers, layers),
        compress_ratios=config.layer_ratios[:layers]
        + config.compress_ratios[config.num_hidden_layers :],
        engram=config.engram and config.engram.first_layers(layers),
    )


def without_mtp(config: ModelConfig) -> ModelConfig:
    """`config` without its MTP block or draft stages."""
    return replace(
        config,
        compress_ratios=config.layer_ratios,
        num_nextn_predict_layers=0,
        draft_stages=0,
    )


def shards(config: ModelConfig) -> Iterator[tuple[Parameter, ...]]:
    """The weights file by file: embedding, each layer, head, MTP block (draft stages left out)."""
    return map(tuple, _shards(config))


def parameters(config: ModelConfig) -> Iterator[Parameter]:
    """Every weight of the model, in the order of the shards, made as it is asked for.

    (A configuration may claim any number of experts; a reader can stop early.)
    """
    return chain.from_iterable(_shards(config))


def _shards(config: ModelConfig) -> Iterator[Iterable[Parameter]]:
    memory = [Parameter(TOKEN_MAP, (config.vocab_size,), I64)] if config.engram else []
    yield (Parameter("embed.weight", (config.vocab_size, config.hidden_size)), *memory)
    for layer, ratio in enumerate(config.layer_ratios):
        name = f"layers.{layer}."
        rest = _block(config, name, ratio, config.is_hash_layer(layer))
        yield chain(_engram(config, layer, name), rest)
    yield (
        Parameter("head.weight", (config.vocab_size, config.hidden_size)),
        Parameter("norm.weight", (config.hidden_size,)),
        *_hyper_head(config, ""),
    )
    for block in range(0 if config.draft_stages else config.num_nextn_predict_layers):
        yield _mtp(config, f"mtp.{block}.")


def tensors(config: ModelConfig) -> Iterator[TensorSpec]:
    """Every stored tensor, in the order of the shards."""
    for parameter in parameters(config):
        yield from parameter.stored()


def _dense(config: ModelConfig, name: str, out: int, width: int) -> Parameter:
    form = FP8_F32 if config.scale_dtype == "f32" else FP8
    return Parameter(f"{name}.weight", (out, width), format=form)


def expert_format(config: ModelConfig) -> Format:
    """Format of the routed experts: FP4 unless the configuration says FP8 (-Base)."""
    if config.expert_dtype == "fp8":
        return FP8_F32 if config.scale_dtype == "f32" else FP8
    return FP4


def _engram(config: ModelConfig, layer: int, p: str) -> Iterator[Parameter]:
    """The memory of a layer, named as in V4.1; a table's rows have their own scales."""
    engram = config.engram
    number = engram.index(layer) if engram is not None else None
    if engram is None or number is None:
        return
    streams, d = config.hc_mult, config.hidden_size
    shape = (engram.rows[number], engram.head_dim)
    yield Parameter(f"{p}engram.embed.weight", shape, format=FP8_ROWS)
    yield _dense(config, f"{p}engram.wkv", (streams + 1) * d, engram.width)
    yield Parameter(f"{p}engram.q_weight", (streams, d))
    yield Parameter(f"{p}engram.k_weight", (streams, d))
    if engram.conv:
        yield Parameter(f"{p}engram.conv.norm.weight", (streams * d,))
        yield Parameter(f"{p}engram.conv.weight", (streams * d, CONV_KERNEL))


def _block(config: ModelConfig, p: str, ratio: int, hashed: bool) -> Iterator[Parameter]:
    """One transformer block: attention, feed-forward and their hyper-connections."""
    yield Parameter(f"{p}attn_norm.weight", (config.hidden_size,))
    yield Parameter(f"{p}ffn_norm.weight", (config.hidden_size,))
    streams = config.hc_mult
    rows = streams * (2 + streams)
    for part in ("attn", "ffn"):
        yield Parameter(f"{p}hc_{part}_fn", (rows, streams * config.hidden_size), F32)
        yield Parameter(f"{p}hc_{part}_base", (rows,), F32)
        yield Parameter(f"{p}hc_{part}_scale", (3,), F32)
    yield from _attention(config, f"{p}attn.", ratio)
    yield from _moe(config, f"{p}ffn.", hashed)


def _attention(config: ModelConfig, p: str, ratio: int) -> Iterator[Parameter]:
    d, c, heads = config.hidden_size, config.head_dim, config.num_attention_heads
    rank, inner = config.q_lora_rank, config.o_groups * config.o_lora_rank
    yield Parameter(f"{p}attn_sink", (heads,), F32)
    yield _dense(config, f"{p}wq_a", rank, d)
    yield Parameter(f"{p}q_norm.weight", (rank,))
    yield _dense(config, f"{p}wq_b", heads * c, rank)
    yield _dense(config, f"{p}wkv", c, d)
    yield Parameter(f"{p}kv_norm.weight", (c,))
    yield _dense(config, f"{p}wo_a", inner, heads * c // config.o_groups)
    yield _dense(config, f"{p}wo_b", d, inner)
    if ratio in (CSA, HCA):
        yield from _compressor(config, f"{p}compressor.", ratio, c)
    if ratio == CSA:
        index = config.index_n_heads * config.index_head_dim
        yield _dense(config, f"{p}indexer.wq_b", index, rank)
        yield Parameter(f"{p}indexer.weights_proj.weight", (config.index_n_heads, d))
        yield from _compressor(config, f"{p}indexer.compressor.", CSA, config.index_head_dim)


def _compressor(config: ModelConfig, p: str, ratio: int, channels: int) -> Iterator[Parameter]:
    series = 2 * channels if ratio == CSA else channels
    yield Parameter(f"{p}ape", (ratio, series), F32)
    yield Parameter(f"{p}wkv.weight", (series, config.hidden_size))
    yield Parameter(f"{p}wgate.weight", (series, config.hidden_size))
    yield Parameter(f"{p}norm.weight", (channels,))


def _moe(config: ModelConfig, p: str, hashed: bool) -> Iterator[Parameter]:
    d, f, count = config.hidden_size, config.moe_intermediate_size, config.n_routed_experts
    yield Parameter(f"{p}gate.weight", (count, d))
    if hashed:
        yield Parameter(f"{p}gate.tid2eid", (config.vocab_size, config.num_experts_per_tok), I64)
    else:
        yield Parameter(f"{p}gate.bias", (count,), F32)
    for name, out, width in (("w1", f, d), ("w2", d, f), ("w3", f, d)):
        yield _dense(config, f"{p}shared_experts.{name}", out, width)
    form = expert_format(config)
    for expert in range(count):
        for name, out, width in (("w1", f, d), ("w2", d, f), ("w3", f, d)):
            yield Parameter(
                f"{p}experts.{expert}.{name}.weight", (out, width), format=form, expert=True
            )


def _hyper_head(config: ModelConfig, p: str) -> Iterator[Parameter]:
    streams = config.hc_mult
    yield Parameter(f"{p}hc_head_fn", (streams, streams * config.hidden_size), F32)
    yield Parameter(f"{p}hc_head_base", (streams,), F32)
    yield Parameter(f"{p}hc_head_scale", (1,), F32)


def _mtp(config: ModelConfig, p: str) -> Iterator[Parameter]:
    d = config.hidden_size
    yield from _block(config, p, 0, hashed=False)
    yield _dense(config, f"{p}e_proj", d, d)
    yield _dense(config, f"{p}h_proj", d, d)
    for name in ("enorm", "hnorm", "norm"):
        yield Parameter(f"{p}{name}.weight", (d,))
    yield from _hyper_head(config, p)
