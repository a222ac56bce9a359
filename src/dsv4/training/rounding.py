"""Quantisation-aware training: the forward pass sees weights as the released formats hold them.

V4 trains experts for FP4 (report, section 3.4): float32 masters are rounded, the rounded values
are used forward and backward, and the gradient passes straight to the masters. Here all experts
round to FP4 (1x32 blocks) and the other quantised matrices to FP8 (128x128), once per optimizer
step.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

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
    masters: list[tuple[Tensor, Tensor]] = []
    for name, parameter in model.named_parameters():
        form = formats.get(name)
        if form is not None:
            masters.append((parameter, parameter.clone()))
            parameter.copy_(quantize(parameter, form).dequantize())
    try:
        with torch.enable_grad():
            yield
    finally:
        for rounded, master in masters:
            rounded.copy_(master)
