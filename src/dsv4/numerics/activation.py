"""Activation rounding: quantise and come straight back.

FP8 and FP4 as in the released inference code (architecture notes section 3, Q8 and Q4): scales are
powers of two, so coming back is exact and the result fits the input's dtype (bfloat16 or float32).
int8 as the CPU kernels do it.
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
_INT8_MAX = 127.0
_INT8_FLOOR = 1e-36


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


def fake_quant_int8(x: Tensor, block: int = 32) -> Tensor:
    """float32 x [..., n] rounded to whole multiples of max|x| / 127 of each `block` values.

    Ties go to even. Blocks with no value above 1e-36 become 0; one that holds a NaN or an infinity
    becomes NaN. The last block may be shorter.
    """
    size = x.shape[-1]
    blocks = functional.pad(x, (0, -size % block)).unflatten(-1, (-1, block))
    largest = blocks.abs().amax(-1, keepdim=True)
    # A number over a tensor would be rounded twice, as the product with a reciprocal.
    inverse = torch.where(largest > _INT8_FLOOR, largest.new_tensor(_INT8_MAX) / largest, 0.0)
    whole = (blocks * inverse).round() * (largest / _INT8_MAX)
    poison = (blocks * 0).sum(-1, keepdim=True)
    return (whole + poison).flatten(-2)[..., :size]


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
