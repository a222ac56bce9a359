"""Which weights a run, or an adapter, began with."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from dsv4 import parallel
from dsv4.checkpoint import layout
from dsv4.model.engram import NgramIndex
from dsv4.model.transformer import Transformer
from dsv4.model.weights import Factor, get_factor
from dsv4.numerics.adapted import Adapted
from dsv4.numerics.quantized import QuantizedTensor

SAMPLE = 64
"""Stored bytes of a quantised weight that are looked at: what is merged into it changes some."""


def origin(model: nn.Module) -> str:
    """A digest of a model's weights: their names and shapes, the first number of each (which every
    division between processes leaves in the first of them), the first codes of quantised ones, and
    by how much adapters are scaled.

    Two digits of a number: another kind of processor draws the same ones but for rounding."""
    return _digest(part for name, module in model.named_modules() for part in _parts(name, module))


def hashes(model: nn.Module) -> dict[str, Any] | None:
    """The Engram of a model as `config.json` has it: which rows an n-gram finds follows from it,
    and no weight says it."""
    for module in model.modules():
        if isinstance(module, NgramIndex):
            return module.engram.to_json()
    return None


def base_origin(model: Transformer) -> str:
    """A digest of a model's weights without its adapters and its MTP block: their names and shapes
    and the first numbers of each, whichever layout they were stored in."""
    return _digest(
        (parameter.name, f"{list(parameter.shape)} {_numbers(get_factor(model, parameter.name))}")
        for parameter in layout.parameters(layout.without_mtp(model.config))
    )


def _numbers(factor: Factor) -> list[str]:
    """The first numbers of a weight's first row, to two digits."""
    value = factor.base if isinstance(factor, Adapted) else factor
    if isinstance(value, QuantizedTensor):
        value = QuantizedTensor(value.data[:1], value.scale[:1], value.format).dequantize()
    row = value.detach()[0] if value.dim() > 1 else value.detach()
    first = row.flatten()[: 2 * SAMPLE]  # as many as FP4 codes in those bytes
    return [f"{number:.1e}" for number in first.float().tolist()]


def _parts(path: str, module: nn.Module) -> Iterator[tuple[str, str]]:
    """(name, what is looked at) of everything that lies in a module itself."""
    dot = f"{path}." if path else ""
    for leaf, parameter in module._parameters.items():
        if parameter is not None:
            first = parallel.own_part(parameter.detach()).flatten()[:1].float().tolist()
            yield dot + leaf, f"{list(parameter.shape)} {[f'{number:.1e}' for number in first]}"
    for leaf, value in vars(module).items():
        if isinstance(value, QuantizedTensor):
            yield dot + leaf, f"{list(value.shape)} {_codes(value.data)} {_codes(value.scale)}"
    if isinstance(module, Adapted):
        yield f"{dot}scale", str(module.scale)


def _codes(stored: Tensor) -> list[int]:
    return stored.flatten()[:SAMPLE].view(torch.uint8).tolist()


def _digest(parts: Iterator[tuple[str, str]]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for line in sorted(f"{name} {fact}\n" for name, fact in parts):
        digest.update(line.encode())
    return digest.hexdigest()
