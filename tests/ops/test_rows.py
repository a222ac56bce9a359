"""Stored KV entries and index keys: the native kernels against the number formats in torch."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dsv4.numerics import formats
from dsv4.numerics.activation import fake_quant_fp8
from dsv4.ops.cpu.native import native

if native is None:
    pytest.skip("the native kernels are not built", allow_module_level=True)

KV_SHAPES = [(512, 64), (128, 64), (96, 32), (72, 8), (200, 64), (24, 16), (64, 64), (40, 0)]


pytestmark = pytest.mark.usefixtures("instruction_set")


def kv_stride(width: int, rotated: int) -> int:
    """Bytes of a stored entry, as KvLayout in csrc/types.h."""
    scales = (width - rotated + 63) // 64
    return width + rotated + (scales + 7) // 8 * 8


def pack_kv(x: Tensor, rotated: int) -> Tensor:
    """x [N, C] float32 as stored entries [N, bytes]."""
    x = x.contiguous()
    out = torch.full((x.shape[0], kv_stride(x.shape[1], rotated)), 0xAB, dtype=torch.uint8)
    native.kernels.pack_kv(x.data_ptr(), x.shape[0], x.shape[1], rotated, out.data_ptr())
    return out


def unpack_kv(rows: Tensor, width: int, rotated: int) -> Tensor:
    out = torch.empty(rows.shape[0], width)
    native.kernels.unpack_kv(rows.data_ptr(), rows.shape[0], width, rotated, out.data_ptr())
    return out


def key_stride(width: int) -> int:
    return width // 2 + (width + 31) // 32


def pack_key(x: Tensor) -> Tensor:
    """x [N, I] float32 as stored keys [N, bytes]."""
    x = x.contiguous()
    out = torch.full((x.shape[0], key_stride(x.shape[1])), 0xAB, dtype=torch.uint8)
    native.kernels.pack_key(x.data_ptr(), x.shape[0], x.shape[1], out.data_ptr())
    return out


def unpack_key(keys: Tensor, width: int) -> Tensor:
    out = torch.empty(keys.shape[0], width)
    native.kernels.unpack_key(keys.data_ptr(), keys.shape[0], width, out.data_ptr())
    return out


def spread(count: int, width: int) -> Tensor:
    """[count, width] float32 with sizes over many orders of magnitude, zeros among them."""
    x = torch.randn(count, width) * torch.exp2(torch.randint(-30, 30, (count, 1)).float())
    x = x * torch.exp2(torch.randint(-12, 1, (count, width)).float())
    return x.masked_fill(torch.rand(count, width) < 0.05, 0.0)


def same(a: Tensor, b: Tensor) -> bool:
    """Equal to the bit, signs of zeros too; any NaN is a NaN."""
    differs = (a.view(torch.int32) != b.view(torch.int32)) & ~(a.isnan() & b.isnan())
    return not bool(differs.any())


def kv_reference(x: Tensor, rotated: int) -> Tensor:
    """What an entry holds: x [N, C] rounded as the released code does."""
    plain = x.shape[1] - rotated
    return torch.cat((fake_quant_fp8(x[:, :plain], 64), x[:, plain:].bfloat16().float()), 1)


@pytest.mark.parametrize(("width", "rotated"), KV_SHAPES)
def test_kv_entries_hold_what_torch_rounds_to(width: int, rotated: int) -> None:
    x = spread(64, width)
    x[0] = 0
    x[1] = 1e-30
    x[2] = torch.finfo(torch.float32).max
    x[3] = -448.0
    assert same(unpack_kv(pack_kv(x, rotated), width, rotated), kv_reference(x, rotated))


def test_kv_ties_and_edges_round_to_even() -> None:
    codes = torch.arange(256, dtype=torch.uint8)
    exact = formats.decode_e4m3(codes)
    exact = exact[~exact.isnan()].sort().values
    between = (exact[1:] + exact[:-1]) / 2
    values = torch.cat(
        (exact, between, between.nextafter(exact[1:]), between.nextafter(exact[:-1]))
    )
    values = values[torch.randperm(len(values))]
    values = torch.nn.functional.pad(values, (0, -len(values) % 63)).view(-1, 63)
    # 448 in each block makes its scale 1.
    x = torch.cat((torch.full((len(values), 1), 448.0), values), 1)
    for power in (0, -7, 9):
        scaled = x * 2.0**power
        assert same(unpack_kv(pack_kv(scaled, 0), 64, 0), kv_reference(scaled, 0))


def test_kv_bytes_are_codes_values_scales_and_zeros() -> None:
    x = spread(9, 200)
    x[5, 70] = torch.nan
    rows = pack_kv(x, 64)
    assert rows.shape[1] == 136 + 128 + 8
    assert torch.equal(rows[:, 136:264].view(torch.bfloat16), x[:, 136:].bfloat16())
    assert not rows[:, 267:].any()
    scales = formats.decode_e8m0(rows[:, 264:267])
    assert bool(scales[5, 1].isnan())
    assert int(scales.isnan().sum()) == 1
    values = formats.decode_e4m3(rows[:, :136].contiguous())
    held = values * scales.repeat_interleave(64, 1)[:, :136]
    assert same(held, kv_reference(x, 64)[:, :136])


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_a_kv_block_with_a_bad_value_becomes_nan_alone(bad: float) -> None:
    x = torch.randn(3, 160)
    x[1, 70] = bad
    x[2, 150] = bad
    out = unpack_kv(pack_kv(x, 32), 160, 32)
    assert same(out, kv_reference(x, 32))
    assert bool(out[1, 64:128].isnan().all())
    assert not out[0].isnan().any()
    assert not out[1, :64].isnan().any()


def test_every_kv_code_and_scale_is_read() -> None:
    # Each row has one scale; two rows with the same scale hold all codes.
    codes = torch.arange(256, dtype=torch.uint8).view(4, 64).repeat(256, 1)
    scales = torch.arange(256, dtype=torch.uint8).repeat_interleave(4)
    rows = torch.zeros(1024, 72, dtype=torch.uint8)
    rows[:, :64] = codes
    rows[:, 64] = scales
    expected = formats.decode_e4m3(codes) * formats.decode_e8m0(scales)[:, None]
    assert same(unpack_kv(rows, 64, 0), expected)


def butterfly(x: Tensor) -> Tensor:
    """Orthonormal Walsh-Hadamard transform of x [N, I], pairs first, in the dtype of x."""
    y = x.clone()
    half = 1
    while half < x.shape[1]:
        y = y.unflatten(1, (-1, 2, half))
        y = torch.stack((y[:, :, 0] + y[:, :, 1], y[:, :, 0] - y[:, :, 1]), 2).flatten(1)
        half *= 2
    return y * torch.tensor(x.shape[1], dtype=torch.float32).rsqrt().to(x.dtype)


def key_codes(turned: Tensor) -> tuple[Tensor, Tensor]:
    """e2m1 codes [N, I] and e8m0 scale codes of [N, I] float32, 32 to a block."""
    blocks = torch.nn.functional.pad(turned, (0, -turned.shape[1] % 32)).unflatten(1, (-1, 32))
    largest = blocks.abs().amax(-1).clamp_min(6 * 2.0**-126)
    scale = formats.round_up_to_power_of_two(largest * (1 / 6))
    codes = formats.encode_e2m1(blocks / scale[..., None]).flatten(1)
    return codes[:, : turned.shape[1]], formats.encode_e8m0(scale).view(torch.uint8)


@pytest.mark.parametrize("width", [8, 16, 32, 64, 128, 256])
def test_keys_hold_what_torch_rounds_to(width: int) -> None:
    x = spread(200, width)
    x[0] = 0
    x[1] = 1e-41
    keys = pack_key(x)
    codes, scales = key_codes(butterfly(x))
    assert torch.equal(keys[:, width // 2 :], scales)
    assert torch.equal(formats.unpack_e2m1(keys[:, : width // 2].contiguous()), codes)
    expected = formats.decode_e2m1(codes) * formats.decode_e8m0(scales).repeat_interleave(
        min(32, width), 1
    )
    assert same(unpack_key(keys, width), expected)


@pytest.mark.parametrize("width", [32, 64, 128])
def test_keys_agree_with_the_matrix_product_away_from_ties(width: int) -> None:
    from dsv4.ops.reference.primitives import hadamard

    x = torch.randn(300, width)
    exact = hadamard(x.double().float()).double()
    keys = unpack_key(pack_key(x), width)
    scale = formats.round_up_to_power_of_two(
        exact.float().unflatten(1, (-1, 32)).abs().amax(-1) * (1 / 6)
    ).repeat_interleave(32, 1)
    unit = exact.abs() / scale
    ties = torch.tensor([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0])
    near = ((unit[..., None] - ties).abs() < 1e-5 * ties).any(-1)
    expected = formats.round_e2m1((exact / scale).float()) * scale
    assert torch.equal(keys[~near], expected[~near])
    assert near.float().mean() < 1e-3


def test_key_ties_round_to_the_even_code() -> None:
    # A butterfly of two equal rows keeps small integers exact: H e_0 is one value everywhere.
    for value, code in [(0.25, 0), (0.75, 2), (1.25, 2), (1.75, 4), (2.5, 4), (3.5, 6), (5.0, 6)]:
        turned = torch.full((1, 64), value)
        turned[0, 0] = turned[0, 32] = 6.0
        x = butterfly(turned)
        keys = pack_key(x)
        expected, scales = key_codes(butterfly(x))
        assert torch.equal(formats.unpack_e2m1(keys[:, :32].contiguous()), expected)
        assert expected[0, 1] == code
        assert torch.equal(keys[:, 32:], scales)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_bad_value_makes_the_whole_key_nan(bad: float) -> None:
    x = torch.randn(2, 64)
    x[1, 3] = bad
    out = unpack_key(pack_key(x), 64)
    assert not out[0].isnan().any()
    assert bool(out[1].isnan().all())
