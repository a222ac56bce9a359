"""Known failures in rotary positions: bases, YaRN, what is turned and back."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from dsv4 import ops
from dsv4.config import CSA, ModelConfig
from dsv4.evaluation.conformance.faults.fault import Fault, computed, into, swapped
from dsv4.model import attention, compressor, rope

FAULTS: dict[str, Fault] = {}
_fault = into(FAULTS)


def _frequencies(make: Callable[[ModelConfig, int], Tensor]) -> AbstractContextManager[None]:
    return swapped(
        attention, "frequencies", lambda config, ratio, device=rope.CPU: make(config, ratio)
    )


@_fault(1, "one RoPE base on all layers", "layers that compress use compress_rope_theta and YaRN")
def _one_rope_base() -> Iterator[None]:
    with _frequencies(lambda config, ratio: rope.frequencies(config, 0)):
        yield


@_fault(1, "YaRN on window layers too", "layers with ratio 0 use rope_theta without YaRN")
def _yarn_everywhere() -> Iterator[None]:
    def make(config: ModelConfig, ratio: int) -> Tensor:
        if ratio:
            return rope.frequencies(config, ratio)
        return rope.frequencies(replace(config, compress_rope_theta=config.rope_theta), CSA)

    with _frequencies(make):
        yield


@_fault(1, "no YaRN", "layers that compress interpolate low frequencies at every length")
def _no_yarn() -> Iterator[None]:
    def make(config: ModelConfig, ratio: int) -> Tensor:
        base = config.compress_rope_theta if ratio else config.rope_theta
        return rope.frequencies(replace(config, rope_theta=base), 0)

    with _frequencies(make):
        yield


@_fault(2, "RoPE pairs the two halves", "channels 2j and 2j + 1 are a pair")
def _split_half_rope() -> Iterator[None]:
    def rotate(x: Tensor, cos: Tensor, sin: Tensor, *, inverse: bool = False) -> Tensor:
        width = 2 * cos.shape[-1]
        keep, (a, b) = x[..., :-width], x[..., -width:].float().chunk(2, -1)
        sin = -sin if inverse else sin
        turned = torch.cat((a * cos - b * sin, a * sin + b * cos), -1)
        return torch.cat((keep, turned.to(x.dtype)), -1)

    with computed(ops.rotate, rotate):
        yield


def _mscale() -> float:
    """YaRN's usual factor for V4's factor of 16."""
    return 0.1 * math.log(16) + 1


@_fault(3, "YaRN's mscale in the softmax scale", "the scale is head_dim ** -0.5, nothing else")
def _mscale_in_softmax() -> Iterator[None]:
    reference = ops.attend._bound

    def attend(q_BTHC: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        factor = _mscale() ** 2 if kwargs["ratio"] else 1.0
        return reference(q_BTHC * factor, *args, **kwargs)

    with computed(ops.attend, attend):
        yield


@_fault(3, "YaRN's mscale on cosines and sines", "rotations have length one")
def _mscale_in_rope() -> Iterator[None]:
    with swapped(
        attention, "angles", lambda omega, at: tuple(_mscale() * x for x in rope.angles(omega, at))
    ):
        yield


@_fault(4, "the output is not rotated back", "turn the last channels of every head by -t")
def _no_derotation() -> Iterator[None]:
    reference = ops.rotate._bound

    def rotate(x: Tensor, cos: Tensor, sin: Tensor, *, inverse: bool = False) -> Tensor:
        return x if inverse else reference(x, cos, sin)

    with computed(ops.rotate, rotate):
        yield


@_fault(4, "the output is rotated back by another table", "by the table of its own layer")
def _derotation_by_other_table() -> Iterator[None]:
    reference, forward = ops.rotate._bound, attention.Attention.forward
    tables: list[tuple[Tensor, Tensor]] = []

    def rotate(x: Tensor, cos: Tensor, sin: Tensor, *, inverse: bool = False) -> Tensor:
        if inverse:
            cos, sin = (table[:, None] for table in tables[-1])
        return reference(x, cos, sin, inverse=inverse)

    def noted(self: attention.Attention, x_BTD: Tensor, start: int, *rest: Any) -> Tensor:
        other = rope.frequencies(self.config, 0 if self.ratio else CSA)
        tables.append(rope.angles(other, torch.arange(start, start + x_BTD.shape[1])))
        return forward(self, x_BTD, start, *rest)

    with computed(ops.rotate, rotate), swapped(attention.Attention, "forward", noted):
        yield


def _entry_positions(
    positions: Callable[[Tensor, int], Tensor],
) -> AbstractContextManager[None]:
    """Rotate entries to other positions: `positions(first tokens of the blocks, ratio)`."""
    forward = compressor.Compressor.forward

    def changed(self: compressor.Compressor, *args: Any) -> Tensor:
        with swapped(
            compressor, "angles", lambda omega, at: rope.angles(omega, positions(at, self.ratio))
        ):
            return forward(self, *args)

    return swapped(compressor.Compressor, "forward", changed)


@_fault(5, "compressed entries are not rotated", "entry i is rotated to position m * i")
def _entries_not_rotated() -> Iterator[None]:
    with _entry_positions(lambda at, ratio: at * 0):
        yield


@_fault(5, "entries are rotated to their index", "entry i is rotated to position m * i")
def _entries_at_index() -> Iterator[None]:
    with _entry_positions(lambda at, ratio: at // ratio):
        yield


@_fault(5, "entries are rotated to their last token", "entry i is rotated to position m * i")
def _entries_at_last_token() -> Iterator[None]:
    with _entry_positions(lambda at, ratio: at + ratio - 1):
        yield


@_fault(6, "entries use the base of window layers", "one table per layer, for all it rotates")
def _entries_of_other_base() -> Iterator[None]:
    forward = compressor.Compressor.forward
    configs: list[ModelConfig] = []
    outer = attention.Attention.forward

    def noted(self: attention.Attention, *args: Any) -> Tensor:
        configs.append(self.config)
        return outer(self, *args)

    def changed(self: compressor.Compressor, x_BTX: Tensor, omega: Tensor, *args: Any) -> Tensor:
        return forward(self, x_BTX, rope.frequencies(configs[-1], 0), *args)

    with (
        swapped(attention.Attention, "forward", noted),
        swapped(compressor.Compressor, "forward", changed),
    ):
        yield
