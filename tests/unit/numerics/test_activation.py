"""Activation rounding against a scalar transcription of its definition."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dsv4.numerics.activation import fake_quant_fp4, fake_quant_fp8

FP4_SIZES = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]
FP8_SIZES = [m / 8 * 2.0**-6 for m in range(8)] + [
    (1 + m / 8) * 2.0 ** (e - 7) for e in range(1, 16) for m in range(8) if (e, m) != (15, 7)
]


def scalar_reference(
    x: list[float], block: int, sizes: list[float], floor: float, limit: float
) -> list[float]:
    result = []
    reciprocal = torch.tensor(1.0 / limit)
    for start in range(0, len(x), block):
        part = x[start : start + block]
        largest = max([floor, *(abs(v) for v in part)])
        scaled = (torch.tensor(largest) * reciprocal).item()
        fraction, exponent = math.frexp(scaled)  # scaled = fraction * 2^exponent
        scale = 2.0 ** (exponent - 1 if fraction == 0.5 else exponent)
        for value in part:
            size = min(abs(value) / scale, limit)
            code = min(range(len(sizes)), key=lambda i: (abs(sizes[i] - size), i & 1))
            result.append(math.copysign(sizes[code] * scale, value))
    return result


values = st.lists(
    st.floats(-1e6, 1e6, width=32, allow_subnormal=False), min_size=1, max_size=70
) | st.lists(st.sampled_from([0.0, 1e-5, 0.25, 0.75, 1.25, 5.0, 6.0, 448.0, -2.5]), min_size=1)


@settings(max_examples=60, deadline=None)
@given(x=values, block=st.sampled_from([4, 32, 64]))
def test_fp8_follows_the_definition(x: list[float], block: int) -> None:
    got = fake_quant_fp8(torch.tensor([x]), block)
    assert got.tolist() == [scalar_reference(x, block, FP8_SIZES, 1e-4, 448.0)]


@settings(max_examples=60, deadline=None)
@given(x=values, block=st.sampled_from([4, 32]))
def test_fp4_follows_the_definition(x: list[float], block: int) -> None:
    got = fake_quant_fp4(torch.tensor([x]), block)
    assert got.tolist() == [scalar_reference(x, block, FP4_SIZES, 6 * 2.0**-126, 6.0)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_shape_and_dtype_stay(dtype: torch.dtype) -> None:
    x = torch.randn(2, 3, 100, generator=torch.Generator().manual_seed(0)).to(dtype)
    before = x.clone()
    for y in (fake_quant_fp8(x, 64), fake_quant_fp4(x)):
        assert y.shape == x.shape and y.dtype == dtype
        assert not torch.equal(y, x)
    assert torch.equal(x, before), "the input is not changed"


def test_bfloat16_holds_the_result_exactly() -> None:
    x = torch.randn(64, 128, generator=torch.Generator().manual_seed(1)).to(torch.bfloat16)
    for fake in (lambda x: fake_quant_fp8(x, 128), fake_quant_fp4):
        assert torch.equal(fake(x).float(), fake(x.float()))
        assert torch.equal(fake(fake(x)), fake(x))


def test_block_maximum_survives_and_nan_spreads_over_its_block() -> None:
    x = torch.zeros(1, 128)
    x[0, 3] = 448.0
    x[0, 70] = math.nan
    y = fake_quant_fp8(x, 64)
    assert y[0, 3] == 448.0
    assert y[0, 64:].isnan().all() and not y[0, :64].isnan().any()
    z = fake_quant_fp4(x)
    assert z[0, 64:96].isnan().all() and not z[0, 96:].isnan().any()


def test_fp8_floor_swallows_tiny_blocks() -> None:
    """Below max 1e-4 the scale stops shrinking: s = 2^-22, smallest step 2^-31."""
    x = torch.full((1, 64), 2.0**-33)
    assert torch.equal(fake_quant_fp8(x, 64), torch.zeros(1, 64))
    assert torch.equal(fake_quant_fp8(x * 8, 64), x * 8)
