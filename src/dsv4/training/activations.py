"""The largest residual value of every layer: what grows before a run goes wrong."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from dsv4.model.block import Block


@contextlib.contextmanager
def largest_activations(model: nn.Module) -> Iterator[dict[int, Tensor]]:
    """Collect max |streams| after every layer, over the forward passes inside a `with` block.

    The MTP block counts as the layer after the last.
    """
    found: dict[int, Tensor] = {}

    @torch.no_grad()
    def measure(number: int, block: nn.Module, args: Any, output: Any) -> None:
        peak = torch.linalg.vector_norm(output[0], float("inf"))
        found[number] = torch.maximum(peak, found.get(number, peak))

    blocks = [m for m in model.modules() if isinstance(m, Block)]
    hooks = [
        block.register_forward_hook(functools.partial(measure, number))
        for number, block in enumerate(blocks)
    ]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()
