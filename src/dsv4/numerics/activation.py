"""Activation rounding of the released inference code: quantise and come straight back.

Spec: architecture notes section 3, Q8 and Q4. Scales are powers of two, so coming back is exact
and the result fits the input's dtype (bfloat16 or float32).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from dsv4.numerics.formats import (
    E2M1_MAX,
    E4M3_MAX,
    decode_e4m3,
    encode_e4m3,
    round_e2m1,
    round_up_to_power_of_two,
)

_FP8_FLOOR = 1e-4
_FP4_FLOOR = E2M1_MAX * 2.0**-126


def fake_quant_fp8(x: Tensor, block: int) -> Tensor:
    """x [..., n] rounded to e4m3 with one power-of-two scale per `block` values.

    a = max(max|x|, 1e-4); s = p2c(a/448); e4m3(clip(x/s, +-448)) * s. The last block may be
    shorter. Same shape and dtype as x.
    """
    return _blockwise(x, block, _FP8_FLOOR, E4M3_MAX, _round_e4m3)


def fake_quant_fp4(x: Tensor, block: int = 32) -> Tensor:
    """x [..., n] rounded to e2m1 with one power-of-two scale per `block` values.

    a = max(max|x|, 6*2^-126); s = p2c(a/6); e2m1(clip(x/s, +-6)) * s. The last block may be
    shorter. Same shape and dtype as x.
    """
    return _blockwise(x, block, _FP4_FLOOR, E2M1_MAX, round_e2m1)


def _round_e4m3(x: Tensor) -> Tensor:
    return decode_e4m3(encode_e4m3(x))


def _blockwise(
    x: Tensor, block: int, floor: float, limit: float, rounded: Callable[[Tensor], Tensor]
) -> Tensor:
    """Scale each block of the last dimension into +-limit, round, and scale back."""
    values = x.to(torch.float32)
    scale = block_scales(values, block, limit, floor)
    spread = scale.repeat_interleave(block, -1)[..., : x.shape[-1]]
    return rounded(values / spread).mul_(spread).to(x.dtype)


def block_scales(x: Tensor, block: int, limit: float, floor: float) -> Tensor:
    """Power-of-two scales that bring every `block` values of float32 x [..., n] within +-limit.

    [..., ceil(n / block)], never smaller than what `floor` as largest value would give.
    """
    if x.shape[-1] % block:
        x = functional.pad(x, (0, -x.shape[-1] % block))
    largest = x.unflatten(-1, (-1, block)).abs().amax(-1).clamp_min(floor)
    return round_up_to_power_of_two(largest * (1.0 / limit))
