"""Quantisation-aware training: the forward pass sees weights as the released formats hold them.

V4 trains experts for FP4 (report, section 3.4): float32 masters are rounded, the rounded values
are used forward and backward, and the gradient passes straight to the masters. Here all experts
round to FP4 (1x32 blocks) and the other quantised matrices to FP8 (128x128), once per optimizer
step.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dsv4.checkpoint import layout
from dsv4.config import ModelConfig
from dsv4.numerics.quantized import Format, quantize


def released_formats(config: ModelConfig) -> dict[str, Format]:
    """Name -> format of every parameter that the released layout stores quantised."""
    return {p.name: p.format for p in layout.parameters(config) if p.format is not None}


@contextlib.contextmanager
@torch.no_grad()
def rounded_weights(model: nn.Module, formats: Mapping[str, Format]) -> Iterator[None]:
    """Replace weights by their rounded values inside a `with` block, then put them back.

    Gradients computed inside belong to the rounded values and are applied to the originals.
    """
    chosen = [(p, formats[name]) for name, p in model.named_parameters() if name in formats]
    parameters: list[Tensor] = [parameter for parameter, _ in chosen]
    masters = [parameter.clone() for parameter in parameters]
    for alike in _alike(chosen):
        stacked = quantize(torch.cat(alike.parameters), alike.form).dequantize()
        torch._foreach_copy_(alike.parameters, stacked.split(alike.rows))
    try:
        with torch.enable_grad():
            yield
    finally:
        torch._foreach_copy_(parameters, masters)


@dataclass
class _Alike:
    """Parameters that can be rounded below each other: no block of scales holds two of them."""

    form: Format
    parameters: list[Tensor]

    @property
    def rows(self) -> list[int]:
        return [len(parameter) for parameter in self.parameters]


def _alike(chosen: Sequence[tuple[Tensor, Format]]) -> list[_Alike]:
    groups: dict[tuple[Format, int, int], _Alike] = {}
    for number, (parameter, form) in enumerate(chosen):
        whole = form.block[0] == 1 or len(parameter) % form.block[0] == 0
        key = (form, parameter.shape[1], -1 if whole else number)
        groups.setdefault(key, _Alike(form, [])).parameters.append(parameter)
    return list(groups.values())
