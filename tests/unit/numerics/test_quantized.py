"""Block-scaled weights: shapes, exactness, rounding and the FP4 to FP8 repack."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file

from dsv4.numerics import formats
from dsv4.numerics.quantized import (
    FP4,
    FP8,
    FP8_F32,
    Format,
    QuantizedTensor,
    quantize,
    repack_fp4_to_fp8,
    settled,
)


def random_weight(out: int, width: int, seed: int = 0, spread: float = 0.0) -> torch.Tensor:
    """Normal numbers, their rows scaled by up to 2^+-spread."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(out, width, generator=generator) * 0.02
    return x * torch.exp2((torch.rand(out, 1, generator=generator) * 2 - 1) * spread)


def slow_dequantize(q: QuantizedTensor) -> torch.Tensor:
    """One element at a time, in double precision."""
    out, width = q.shape
    if q.format.element == "e2m1":
        values = formats.decode_e2m1(formats.unpack_e2m1(q.data))
    else:
        values = q.data.to(torch.float32)
    scale = q.scale.to(torch.float32) if q.scale.dtype != torch.float32 else q.scale
    rows, cols = q.format.block
    result = torch.empty(out, width, dtype=torch.float64)
    for i in range(out):
        for j in range(width):
            result[i, j] = values[i, j].double() * scale[i // rows, j // cols].double()
    return result


shapes = st.tuples(st.integers(1, 200), st.integers(1, 150)).filter(lambda s: s[0] * s[1] < 9000)


@settings(max_examples=25, deadline=None)
@given(shape=shapes, form=st.sampled_from([FP8, FP8_F32, FP4]), seed=st.integers(0, 99))
def test_dequantize_is_element_times_scale(shape: tuple[int, int], form: Format, seed: int) -> None:
    out, width = shape[0], shape[1] * form.packing
    q = quantize(random_weight(out, width, seed, spread=4), form)
    assert q.shape == (out, width)
    assert tuple(q.data.shape) == form.data_shape((out, width))
    assert tuple(q.scale.shape) == (-(-out // form.block[0]), -(-width // form.block[1]))
    assert q.nbytes == q.data.nbytes + q.scale.nbytes
    got = q.dequantize()
    want = slow_dequantize(q)
    assert torch.equal(got, want.to(torch.float32))
    if form is not FP8_F32:
        assert torch.equal(got.double(), want), "products with powers of two are exact"
        assert torch.equal(q.dequantize(torch.bfloat16).double(), want)


@settings(max_examples=25, deadline=None)
@given(data=st.data(), form=st.sampled_from([FP8, FP8_F32, FP4]))
def test_rows_are_rows_of_the_whole(data: st.DataObject, form: Format) -> None:
    out = data.draw(st.integers(1, 300))
    start = data.draw(st.integers(0, out))
    stop = data.draw(st.integers(start, out))
    q = quantize(random_weight(out, 70, 1), form)
    assert torch.equal(q.dequantize(rows=(start, stop)), q.dequantize()[start:stop])


@pytest.mark.parametrize("form", [FP8, FP4], ids=lambda form: form.name)
def test_quantize_is_idempotent(form: Format) -> None:
    q = quantize(random_weight(130, 160, 2, spread=3), form)
    again = quantize(q.dequantize(), form)
    assert torch.equal(again.dequantize(), q.dequantize())


@pytest.mark.parametrize("form", [FP8, FP8_F32, FP4], ids=lambda form: form.name)
def test_error_is_at_most_half_a_step(form: Format) -> None:
    x = random_weight(256, 256, 3)
    q = quantize(x, form)
    rows, cols = form.block
    scale = q.scales().repeat_interleave(rows, 0).repeat_interleave(cols, 1)
    error = (q.dequantize() - x).abs()
    if form is FP4:
        assert (error <= scale * torch.where(x.abs() / scale < 2, 0.25, 1.0)).all()
    else:
        bound = torch.maximum(x.abs() * 2.0**-4, scale * 2.0**-10)
        assert (error <= bound * (1 + 1e-5)).all()


@pytest.mark.parametrize("form", [FP8, FP4], ids=lambda form: form.name)
def test_scale_is_the_smallest_power_of_two_that_fits(form: Format) -> None:
    x = random_weight(128, 128, 4)
    for size in (form.max, math.nextafter(form.max, 0), form.max * 1.001):
        block = x * 0
        block[0, 0] = size
        scale = quantize(block, form).scales()[0, 0].item()
        assert scale == (1.0 if size <= form.max else 2.0)


@pytest.mark.parametrize("form", [FP8, FP8_F32, FP4], ids=lambda form: form.name)
def test_zero_and_tiny_blocks(form: Format) -> None:
    assert torch.equal(quantize(torch.zeros(3, 64), form).dequantize(), torch.zeros(3, 64))
    tiny = torch.full((2, 64), 2.0**-126)
    assert quantize(tiny, form).dequantize().isfinite().all()


@pytest.mark.parametrize("form", [FP8, FP8_F32, FP4], ids=lambda form: form.name)
def test_nan_stays_in_its_block(form: Format) -> None:
    x = random_weight(256, 256, 5)
    x[0, 0] = math.nan
    y = quantize(x, form).dequantize()
    rows, cols = form.block
    assert y[0, 0].isnan()
    y[:rows, :cols] = 0
    assert not y.isnan().any()


def test_nan_scale_gives_nan() -> None:
    q = quantize(random_weight(2, 64, 6), FP4)
    q.scale.view(torch.uint8)[1, 1] = 255
    y = q.dequantize()
    assert y[1, 32:].isnan().all()
    assert not y[0].isnan().any() and not y[1, :32].isnan().any()


@pytest.mark.parametrize("spread", [0.0, 3.0, 5.5])
def test_repack_is_lossless_up_to_two_to_the_fourteen(spread: float) -> None:
    """Shapes that are no multiples of 128, row scales from 2^-5.5 to 2^5.5."""
    q = quantize(random_weight(200, 320, 7, spread), FP4)
    exponents = q.scale.view(torch.uint8).int()
    assert 2 * spread - 2 < exponents.max() - exponents.min() <= 14
    wide = repack_fp4_to_fp8(q)
    assert wide.format == FP8
    assert wide.shape == q.shape
    assert torch.equal(wide.dequantize(), q.dequantize())


def test_repack_at_the_exact_limit() -> None:
    """Largest element in the largest block, smallest in one 2^14 below: both survive."""
    codes = torch.full((2, 32), 7, dtype=torch.uint8)
    codes[1] = 1
    data = formats.pack_e2m1(codes)
    scale = formats.encode_e8m0(torch.tensor([[1.0], [2.0**-14]]))
    q = QuantizedTensor(data, scale, FP4)
    assert torch.equal(repack_fp4_to_fp8(q).dequantize(), q.dequantize())
    lower = formats.encode_e8m0(torch.tensor([[1.0], [2.0**-16]]))
    lost = QuantizedTensor(data, lower, FP4)
    got = repack_fp4_to_fp8(lost).dequantize()
    assert torch.equal(got[0], lost.dequantize()[0])
    assert (got[1] == 0).all(), "beyond the limit small blocks are rounded"


def test_repack_scale_is_a_sixty_fourth_of_the_largest() -> None:
    q = quantize(random_weight(256, 256, 8, 2), FP4)
    scales = repack_fp4_to_fp8(q).scales()
    largest = q.scales().unflatten(0, (2, 128)).unflatten(2, (2, 4)).amax((1, 3))
    assert torch.equal(scales * 64, largest)


def test_quantising_loses_no_bias() -> None:
    """The mean error over many weights is within five standard errors of zero."""
    x = random_weight(512, 512, 9)
    for form in (FP8, FP8_F32, FP4):
        error = (quantize(x, form).dequantize() - x).double()
        assert abs(error.mean()) < 5 * error.std() / math.sqrt(error.numel())


def test_mapped_files_are_read_in_place(tmp_path: Path) -> None:
    q = quantize(random_weight(130, 96, 10), FP4)
    save_file({"w.weight": q.data, "w.scale": q.scale}, tmp_path / "w.safetensors")
    with safe_open(tmp_path / "w.safetensors", "pt") as file:
        mapped = QuantizedTensor(file.get_tensor("w.weight"), file.get_tensor("w.scale"), FP4)
    assert torch.equal(mapped.dequantize(), q.dequantize())
    assert torch.equal(mapped.to("cpu").data, q.data)


@pytest.mark.parametrize("form", [FP4, FP8], ids=lambda form: form.name)
def test_a_settled_weight_rounds_to_its_codes_and_stays_there(form: Format) -> None:
    """Stored values themselves do not: the least growth gives most FP4 blocks a coarser scale."""
    q = quantize(torch.randn(256, 256) * torch.randn(256, 1).exp(), form)
    start = settled(q)
    for factor in (1.0, 1.001, 0.999):
        again = quantize(start * factor, form)
        assert torch.equal(again.data.view(torch.int8), q.data.view(torch.int8))
        assert torch.equal(again.scale.view(torch.int8), q.scale.view(torch.int8))
    grown = quantize(q.dequantize() * 1.001, form).dequantize()
    if form is FP4:
        assert float((grown - q.dequantize()).norm() / q.dequantize().norm()) > 0.03


def test_settling_moves_only_the_largest_codes_and_no_float32_scales() -> None:
    q = quantize(torch.randn(64, 64), FP4)
    moved = settled(q) != q.dequantize()
    sizes = formats.decode_packed_e2m1(q.data).abs().view(64, 2, 32)
    most = sizes.amax(-1, keepdim=True)
    wanted = (sizes == most) & ((most == 6) | (most == 3))
    assert bool(wanted.any()) and torch.equal(moved.view(64, 2, 32), wanted)
    exact = quantize(torch.randn(128, 128), FP8_F32)
    assert torch.equal(settled(exact), exact.dequantize())
