"""Norms, rotation, activations and pooling: the native kernels against float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dsv4.ops.cpu.native import native

if native is None:
    pytest.skip("the native kernels are not built", allow_module_level=True)

SIZES = (1, 3, 4, 7, 8, 15, 16, 17, 63, 64, 100, 512, 4099)


pytestmark = pytest.mark.usefixtures("instruction_set")


def close(out: Tensor, expected: Tensor, tolerance: float = 5e-7) -> bool:
    """Every element within a relative tolerance, or within what float32 calls tiny."""
    return bool(((out - expected).abs() <= tolerance * expected.abs() + 1e-37).all())


def swiglu(a: Tensor, b: Tensor, limit: float = 10.0, scale: float = 1.0) -> Tensor:
    out = torch.empty_like(a)
    native.kernels.swiglu(a.data_ptr(), b.data_ptr(), len(a), limit, scale, out.data_ptr())
    return out


@pytest.mark.parametrize("n", SIZES)
def test_rms_norm(n: int) -> None:
    x, weight = torch.randn(n), torch.randn(n).bfloat16()
    exact = x.double() * (x.double().square().mean() + 1e-6).rsqrt()
    out = torch.empty(n)
    native.kernels.rms_norm(x.data_ptr(), n, weight.data_ptr(), 1e-6, out.data_ptr())
    assert close(out, exact * weight.double())
    native.kernels.rms_norm(x.data_ptr(), n, 0, 1e-6, out.data_ptr())
    assert close(out, exact)


@pytest.mark.parametrize("n", SIZES)
def test_swiglu(n: int) -> None:
    a, b = torch.randn(n) * 8, torch.randn(n) * 8
    gate, up = a.double().clamp(max=10), b.double().clamp(-10, 10)
    assert close(swiglu(a, b, 10.0, 1.5), gate * torch.sigmoid(gate) * up * 1.5)


def test_swiglu_at_the_ends() -> None:
    a = torch.tensor([-1e4, -3e38, -100.0, -90.0, -88.6, -87.0, 0.0, 50.0, torch.nan, 1.0])
    b = torch.tensor([1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 5.0, 50.0, 1.0, torch.nan])
    out = swiglu(a, b)
    assert out.tolist()[:2] == [0, 0]
    assert bool(out[:2].signbit().all())
    gate = a[:8].double().clamp(max=10)
    assert close(out[2:8], (gate * torch.sigmoid(gate) * b[:8].double().clamp(-10, 10))[2:])
    assert bool(out[8:].isnan().all())


def test_the_exponential_over_its_whole_range() -> None:
    # swiglu(-x) = -x / (1 + e^x): for large x, e^x itself.
    x = torch.linspace(-86.9, 88.7, 400_000)
    out = swiglu(-x, torch.ones_like(x), limit=1e4).double()
    # Adding 1 and dividing round too: three units in all.
    assert close(out, -x.double() / (1 + x.double().exp()), 4e-7)


def test_a_value_does_not_depend_on_its_place() -> None:
    a, b = torch.randn(100) * 5, torch.randn(100)
    whole = swiglu(a, b)
    for begin, end in ((0, 3), (7, 39), (50, 99), (99, 100)):
        part = swiglu(a[begin:end].clone(), b[begin:end].clone())
        assert torch.equal(part, whole[begin:end])


@pytest.mark.parametrize("pairs", [1, 2, 3, 8, 9, 16, 31, 32])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_rotate(pairs: int, sign: float) -> None:
    x, angle = torch.randn(2 * pairs), torch.rand(pairs) * 1000
    cos, sin = angle.cos(), angle.sin()
    u, v = x[0::2].clone(), x[1::2].clone()
    out = x.clone()
    native.kernels.rotate(out.data_ptr(), cos.data_ptr(), sin.data_ptr(), pairs, sign)
    assert torch.equal(out[0::2], u * cos - v * (sign * sin))
    assert torch.equal(out[1::2], u * (sign * sin) + v * cos)


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("rows", [1, 2, 8, 128])
def test_pool(rows: int, n: int) -> None:
    values, gates, ape = torch.randn(3, rows, n).mul(4).unbind()
    values, gates, ape = values.contiguous(), gates.contiguous(), ape.contiguous()
    if rows == 8:
        gates[:4] = -torch.inf
        values[:4] = 0
    out = torch.empty(n)
    native.kernels.pool(
        values.data_ptr(), gates.data_ptr(), ape.data_ptr(), rows, n, out.data_ptr()
    )
    # The sum of two gates is a float32 in the model too.
    weights = torch.softmax((gates + ape).double(), 0)
    expected = (weights * values.double()).sum(0)
    size = (weights * values.double().abs()).sum(0)
    assert bool(((out - expected).abs() <= 2e-6 * size).all())


@pytest.mark.parametrize("n", SIZES)
def test_dot_and_square_sum(n: int) -> None:
    a, b = torch.randn(n), torch.randn(n)
    product = a.double() * b.double()
    dot = native.kernels.dot(a.data_ptr(), b.data_ptr(), n)
    assert abs(dot - product.sum()) <= 1e-6 * product.abs().sum()
    squares = a.double().square().sum()
    assert abs(native.kernels.square_sum(a.data_ptr(), n) - squares) <= 1e-6 * squares


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("count", [1, 2, 4, 7])
def test_weighted_sum(count: int, n: int) -> None:
    x, weights = torch.randn(count, n + 5), torch.randn(count)
    out = torch.empty(n)
    native.kernels.weighted_sum(x.data_ptr(), n + 5, weights.data_ptr(), count, n, out.data_ptr())
    terms = x[:, :n].double() * weights.double()[:, None]
    assert bool(((out - terms.sum(0)).abs() <= 5e-7 * terms.abs().sum(0)).all())
