"""Every code of every format against values computed from the definitions, in fractions."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import pytest
import torch

from dsv4.numerics import formats


def e4m3_value(code: int) -> Fraction | None:
    """The number an e4m3 code stands for; None for NaN."""
    sign, exponent, mantissa = code >> 7, code >> 3 & 15, code & 7
    if exponent == 15 and mantissa == 7:
        return None
    if exponent:
        size = Fraction(8 + mantissa, 8) * Fraction(2) ** (exponent - 7)
    else:
        size = Fraction(mantissa, 8) * Fraction(2) ** -6
    return -size if sign else size


def e2m1_value(code: int) -> Fraction:
    sign, exponent, mantissa = code >> 3, code >> 1 & 3, code & 1
    if exponent:
        size = Fraction(2 + mantissa, 2) * Fraction(2) ** (exponent - 1)
    else:
        size = Fraction(mantissa, 2)
    return -size if sign else size


def nearest_code(x: Fraction, sizes: dict[int, Fraction]) -> int:
    """Code of the magnitude nearest to x >= 0, ties to the even code."""
    return min(sizes, key=lambda code: (abs(sizes[code] - x), code & 1))


E4M3_SIZES = {code: value for code in range(127) if (value := e4m3_value(code)) is not None}
E2M1_SIZES = {code: e2m1_value(code) for code in range(8)}


def probes(sizes: dict[int, Fraction]) -> list[float]:
    """Every magnitude, every midpoint, and the float32 on either side of each midpoint."""
    ordered = sorted(sizes.values())
    points = [float(value) for value in ordered]
    for low, high in itertools.pairwise(ordered):
        middle = torch.tensor(float((low + high) / 2))
        points += [middle.item()]
        points += [middle.nextafter(torch.tensor(end)).item() for end in (0.0, math.inf)]
    return points


def test_e4m3_decodes_all_codes() -> None:
    codes = torch.arange(256, dtype=torch.int32).to(torch.uint8)
    values = formats.decode_e4m3(codes.view(torch.float8_e4m3fn))
    for code in range(256):
        want = e4m3_value(code)
        if want is None:
            assert values[code].isnan()
        else:
            assert Fraction(values[code].item()) == want
            assert bool(values[code].signbit()) == (code >= 128)
    assert torch.equal(formats.decode_e4m3(codes), values) or values.isnan().sum() == 2


def test_e4m3_decodes_without_nan_in_the_batch() -> None:
    codes = torch.tensor([[0x7E, 0xFE, 0x01]], dtype=torch.uint8)
    assert formats.decode_e4m3(codes).tolist() == [[448.0, -448.0, 2.0**-9]]
    assert formats.decode_e4m3(codes[:0]).shape == (0, 3)


def test_e4m3_encodes_all_values_back() -> None:
    codes = torch.arange(256, dtype=torch.int32).to(torch.uint8)
    again = formats.encode_e4m3(formats.decode_e4m3(codes)).view(torch.uint8)
    finite = (codes & 127) != 127
    assert torch.equal(again[finite], codes[finite])
    assert formats.decode_e4m3(again[~finite]).isnan().all()


@pytest.mark.parametrize("sign", [1, -1])
def test_e4m3_rounds_to_nearest_even(sign: int) -> None:
    points = probes(E4M3_SIZES)
    got = formats.encode_e4m3(torch.tensor(points) * sign).view(torch.uint8).tolist()
    for point, code in zip(points, got, strict=True):
        assert code == nearest_code(Fraction(point), E4M3_SIZES) + (128 if sign < 0 else 0), point


def test_e4m3_saturates_and_keeps_nan() -> None:
    x = torch.tensor([449.0, 465.0, 1e30, math.inf, -500.0, -math.inf, math.nan])
    values = formats.decode_e4m3(formats.encode_e4m3(x)).tolist()
    assert values[:6] == [448.0, 448.0, 448.0, 448.0, -448.0, -448.0]
    assert math.isnan(values[6])


def test_e4m3_agrees_with_torch_on_decoding() -> None:
    codes = torch.arange(256, dtype=torch.int32).to(torch.uint8).view(torch.float8_e4m3fn)
    torch.testing.assert_close(
        formats.decode_e4m3(codes), codes.to(torch.float32), rtol=0, atol=0, equal_nan=True
    )


def test_e2m1_decodes_all_codes() -> None:
    values = formats.decode_e2m1(torch.arange(16))
    assert [Fraction(value) for value in values.tolist()] == [e2m1_value(c) for c in range(16)]
    assert values.signbit().tolist() == [code >= 8 for code in range(16)]


@pytest.mark.parametrize("sign", [1, -1])
def test_e2m1_rounds_to_nearest_even(sign: int) -> None:
    points = [*probes(E2M1_SIZES), 6.5, 7.0, 1e30, math.inf]
    x = torch.tensor(points) * sign
    codes = formats.encode_e2m1(x).tolist()
    rounded = formats.round_e2m1(x)
    for point, code in zip(points, codes, strict=True):
        near = nearest_code(Fraction(min(point, 6.0)), E2M1_SIZES)
        assert code == near + (8 if sign < 0 else 0), point
    assert torch.equal(formats.decode_e2m1(torch.tensor(codes)), rounded)


def test_e2m1_ties_are_those_of_the_specification() -> None:
    ties = torch.tensor([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0])
    assert formats.round_e2m1(ties).tolist() == [0.0, 1.0, 1.0, 2.0, 2.0, 4.0, 4.0]


def test_e2m1_has_no_nan() -> None:
    nan = torch.tensor([math.nan])
    assert formats.encode_e2m1(nan).item() & 7 == 0
    assert formats.round_e2m1(nan).isnan().all()


def test_e2m1_packs_low_nibble_first() -> None:
    packed = formats.pack_e2m1(torch.tensor([[1, 15, 8, 7]], dtype=torch.uint8))
    assert packed.dtype == torch.int8
    assert packed.view(torch.uint8).tolist() == [[0xF1, 0x78]]


def test_e2m1_unpacks_all_bytes() -> None:
    raw = torch.arange(256, dtype=torch.int32).to(torch.uint8).view(16, 16)
    codes = formats.unpack_e2m1(raw)
    assert codes.shape == (16, 32)
    assert torch.equal(formats.pack_e2m1(codes).view(torch.uint8), raw)
    by_nibble = formats.decode_e2m1(codes)
    by_byte = formats.decode_packed_e2m1(raw.view(torch.int8))
    assert torch.equal(by_byte, by_nibble)
    assert torch.equal(by_byte.signbit(), by_nibble.signbit())


def test_e8m0_decodes_all_codes() -> None:
    codes = torch.arange(256, dtype=torch.int32).to(torch.uint8).view(torch.float8_e8m0fnu)
    values = formats.decode_e8m0(codes).tolist()
    assert [Fraction(value) for value in values[:255]] == [
        Fraction(2) ** (code - 127) for code in range(255)
    ]
    assert math.isnan(values[255])


def test_e8m0_encodes_all_codes_back() -> None:
    codes = torch.arange(256, dtype=torch.int32).to(torch.uint8)
    again = formats.encode_e8m0(formats.decode_e8m0(codes))
    assert again.dtype == torch.float8_e8m0fnu
    assert torch.equal(again.view(torch.uint8), codes)


def test_e8m0_rounds_up() -> None:
    for code in (0, 1, 2, 126, 127, 128, 253):
        power = torch.tensor(2.0 ** (code - 127))
        above = power.nextafter(torch.tensor(math.inf))
        got = formats.encode_e8m0(torch.stack((power, above))).view(torch.uint8).tolist()
        assert got == [code, code + 1]


def test_e8m0_limits() -> None:
    largest = torch.tensor(2.0**127)
    x = torch.stack((torch.tensor(0.0), torch.tensor(1e-45), largest.nextafter(largest * 2)))
    assert formats.encode_e8m0(x).view(torch.uint8).tolist() == [0, 0, 255]
    bad = torch.tensor([math.inf, math.nan, -1.0, -math.inf])
    assert formats.encode_e8m0(bad).view(torch.uint8).tolist() == [255] * 4


def test_round_up_to_power_of_two() -> None:
    x = torch.tensor([1.0, 1.0000001, 3.0, 0.75, 2.0**-126, 5e-5, math.inf])
    want = [1.0, 2.0, 4.0, 1.0, 2.0**-126, 2.0**-14, math.inf]
    assert formats.round_up_to_power_of_two(x).tolist() == want
    assert formats.round_up_to_power_of_two(torch.tensor([math.nan])).isnan().all()


@pytest.mark.parametrize("name", ["e4m3", "e2m1"])
def test_rounding_is_unbiased(name: str) -> None:
    """The mean error of uniform numbers is within five standard errors of zero."""
    generator = torch.Generator().manual_seed(7)
    x = torch.rand(400_000, generator=generator, dtype=torch.float32) * 6
    if name == "e4m3":
        error = formats.decode_e4m3(formats.encode_e4m3(x)) - x
    else:
        error = formats.round_e2m1(x) - x
    standard_error = error.double().std() / math.sqrt(x.numel())
    assert abs(error.double().mean()) < 5 * standard_error
    # Rounding halves away from zero, or truncating, would show on numbers made of ties alone.
    ties = torch.tensor(
        [float(a + b) / 2 for a, b in itertools.pairwise(sorted(E2M1_SIZES.values()))]
    )
    steps = torch.tensor([0.5, 0.5, 0.5, 0.5, 1.0, 1.0, 2.0])
    signs = ((formats.round_e2m1(ties) - ties) / steps).sum()
    assert abs(signs) <= 0.5
