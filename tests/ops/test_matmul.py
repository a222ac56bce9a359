"""Matrix products of the native kernels, for every instruction set of this machine, against
float64 products of the same weights and the rounded inputs.
"""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dsv4.numerics import formats
from dsv4.numerics.activation import fake_quant_int8
from dsv4.numerics.quantized import FP4, FP8, FP8_F32, FP8_ROWS, QuantizedTensor, quantize
from dsv4.ops.cpu.native import native

if native is None:
    pytest.skip("the native kernels are not built", allow_module_level=True)

SETS = native.instruction_sets()
QUANTIZED = {"fp8": FP8, "fp8-f32": FP8_F32, "fp4": FP4}
PRODUCTS = {"f32": 0, "bf16": 1, "fp8": 2, "fp8-f32": 3, "fp4": 4}
CODES = PRODUCTS | {"fp8-rows": 5}
"""enum Format of csrc/types.h; rows of a table are not multiplied."""
SHAPES = [
    (1, 32), (7, 96), (128, 128), (130, 160), (257, 512), (130, 1024), (7, 4128), (1, 4128),
    (257, 32), (128, 96), (130, 128), (7, 512), (1, 1024),
]  # fmt: skip
COUNTS = (1, 2, 3, 4, 5, 8, 17, 33, 64)


@dataclass(frozen=True)
class Weight:
    """A stored weight [rows, cols]: its bytes and scales, and what they mean."""

    name: str
    data: Tensor
    scale: Tensor | None
    exact: Tensor  # [rows, cols] float64

    @property
    def shape(self) -> tuple[int, int]:
        return self.exact.shape[0], self.exact.shape[1]


def stored(name: str, values: Tensor) -> Weight:
    """values [rows, cols] float32 in the format of that name."""
    if name == "f32":
        return Weight(name, values, None, values.double())
    if name == "bf16":
        return Weight(name, values.bfloat16(), None, values.bfloat16().double())
    return held(name, quantize(values, QUANTIZED[name]))


def held(name: str, q: QuantizedTensor) -> Weight:
    return Weight(name, q.data, q.scale, q.dequantize().double())


@cache
def drawn(name: str, rows: int, cols: int) -> Weight:
    generator = torch.Generator().manual_seed(rows * 10007 + cols)
    return stored(name, torch.randn(rows, cols, generator=generator))


def multiply(
    w: Weight,
    x: Tensor,
    tokens: Sequence[int] | None = None,
    begin: int = 0,
    end: int | None = None,
    address: int | None = None,
) -> Tensor:
    """The kernel's product [count, end - begin]; `address` is where a copy of w.data lies."""
    rows, cols = w.shape
    stop = rows if end is None else end
    chosen = None if tokens is None else torch.tensor(tokens, dtype=torch.int32)
    count = len(x) if tokens is None else len(tokens)
    y = torch.full((count * (stop - begin) + 16,), -77.0)
    x = x.contiguous()
    native.kernels.matmul(
        x.data_ptr(), len(x),
        address or w.data.data_ptr(), 0 if w.scale is None else w.scale.data_ptr(),
        CODES[w.name], rows, cols,
        0 if chosen is None else chosen.data_ptr(), count, begin, stop, y.data_ptr(),
    )  # fmt: skip
    assert bool((y[-16:] == -77.0).all()), "written past the end"
    return y[:-16].view(count, stop - begin)


def decode(w: Weight, begin: int, end: int) -> Tensor:
    out = torch.full((end - begin, w.shape[1]), -77.0)
    scale = 0 if w.scale is None else w.scale.data_ptr()
    native.kernels.decode_rows(
        w.data.data_ptr(), scale, CODES[w.name], *w.shape, begin, end, out.data_ptr()
    )
    return out


def rounded(name: str, x: Tensor) -> Tensor:
    """float64 x as a product with weights of that format reads it."""
    return (fake_quant_int8(x) if name == "fp4" else x.bfloat16()).double()


def error(y: Tensor, expected: Tensor) -> float:
    """Relative L2."""
    return float((y.double() - expected).norm() / expected.norm())


@pytest.fixture(params=SETS, autouse=True)
def _instruction_set(request: pytest.FixtureRequest) -> Iterator[None]:
    before = native.instruction_set()
    assert native.use_instruction_set(request.param)
    yield
    native.use_instruction_set(before)


@pytest.mark.parametrize("name", PRODUCTS)
@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: f"{s[0]}x{s[1]}")
def test_products_are_those_of_float64_and_do_not_depend_on_their_company(
    name: str, shape: tuple[int, int]
) -> None:
    w = drawn(name, *shape)
    x = torch.randn(300 if shape[1] <= 512 else 72, shape[1])
    y = multiply(w, x)
    assert error(y, rounded(name, x) @ w.exact.T) <= 1e-6
    for count in COUNTS:
        assert torch.equal(multiply(w, x[:count]), y[:count]), count
        assert torch.equal(multiply(w, x, range(7, 7 + count)), y[7 : 7 + count]), count
    chosen = [5, 5, 0, 64, 5, 31, 2]
    assert torch.equal(multiply(w, x, chosen), y[chosen])
    rows = shape[0]
    for begin, end in ((0, 0), (0, 1), (rows // 3, rows), (rows // 2, rows // 2 + 1), (1, rows)):
        for count in (1, 3, 9):
            part = multiply(w, x[:count], begin=begin, end=end)
            assert torch.equal(part, y[:count, begin:end]), (begin, end, count)


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_any_size_address_and_split(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(list(PRODUCTS)))
    cols = data.draw(st.integers(1, 20)) * 32 if name == "fp4" else data.draw(st.integers(1, 650))
    rows = data.draw(st.integers(1, 150))
    begin = data.draw(st.integers(0, rows))
    end = data.draw(st.integers(begin, rows))
    w = drawn(name, rows, cols)
    x = torch.randn(data.draw(st.integers(1, 20)), cols)
    tokens = data.draw(st.lists(st.integers(0, len(x) - 1), max_size=20))
    offset = data.draw(st.integers(0, 63))
    moved = torch.empty(w.data.nbytes + 64, dtype=torch.uint8)
    moved[offset : offset + w.data.nbytes] = w.data.contiguous().view(torch.uint8).flatten()
    y = multiply(w, x, address=moved.data_ptr() + offset)
    inputs = rounded(name, x)
    # Few results, perhaps all near zero: what counts is the size of the products summed.
    products = (inputs.abs() @ w.exact.abs().T).norm()
    assert float((y - inputs @ w.exact.T).norm() / products) <= 3e-7
    assert torch.equal(multiply(w, x, tokens, begin, end), y[tokens, begin:end])


@pytest.mark.parametrize("name", PRODUCTS)
@pytest.mark.parametrize("cols", [32, 96, 128, 160, 4128])
def test_nothing_is_read_past_the_last_byte(name: str, cols: int) -> None:
    """The weight ends where a page begins that must not be touched: reading it is fatal."""
    w = drawn(name, 5, cols)
    room = -(-w.data.nbytes // mmap.PAGESIZE) * mmap.PAGESIZE
    pages = mmap.mmap(-1, room + mmap.PAGESIZE)
    held_open = ctypes.c_char.from_buffer(pages)
    first = ctypes.addressof(held_open)
    mprotect = ctypes.CDLL(None, use_errno=True).mprotect
    mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    assert mprotect(first + room, mmap.PAGESIZE, 0) == 0
    ctypes.memmove(first + room - w.data.nbytes, w.data.data_ptr(), w.data.nbytes)
    x = torch.randn(9, cols)
    for count in (1, 2, 9):
        y = multiply(w, x[:count], address=first + room - w.data.nbytes)
        assert torch.equal(y, multiply(w, x[:count]))
    del held_open
    pages.close()


@pytest.mark.parametrize("name", PRODUCTS)
@pytest.mark.parametrize("shape", [(1, 32), (130, 160), (257, 512)])
def test_decoded_rows_are_exact(name: str, shape: tuple[int, int]) -> None:
    w = drawn(name, *shape)
    for begin, end in ((0, shape[0]), (shape[0] // 2, shape[0]), (0, 0)):
        assert torch.equal(decode(w, begin, end), w.exact[begin:end].float())


def ones(rows: int, cols: int) -> Tensor:
    """e8m0 scales, all 1."""
    return torch.full((rows, cols), 127, dtype=torch.uint8).view(torch.float8_e8m0fnu)


def every_code(name: str) -> Weight:
    """Every code of the format that is a number, once in every column."""
    count = 16 if name == "fp4" else 256
    codes = (torch.arange(count)[:, None] + 5 * torch.arange(128)[None]) % count
    if name == "fp4":
        return held(name, QuantizedTensor(formats.pack_e2m1(codes.byte()), ones(16, 4), FP4))
    codes[codes % 128 == 127] = 0
    data = codes.byte().view(torch.float8_e4m3fn)
    return held(name, QuantizedTensor(data, ones(2, 1), FP8))


@pytest.mark.parametrize("name", ["fp4", "fp8"])
def test_every_code_in_every_place(name: str) -> None:
    w = every_code(name)
    assert torch.equal(decode(w, 0, w.shape[0]), w.exact.float())
    # 127 is its own int8, with scale 1.
    units = 127 * torch.eye(128)
    assert torch.equal(multiply(w, units), 127 * w.exact.T.float())
    for first in range(0, 128, 3):
        part = units[first : first + 3]
        assert torch.equal(multiply(w, part), 127 * w.exact.T[first : first + 3].float())


@pytest.mark.parametrize("code", [0x7F, 0xFF])
def test_the_nan_code_spoils_its_row_only(code: int) -> None:
    for place in range(128):
        data = torch.zeros(5, 128, dtype=torch.uint8)
        data[2, place] = code
        w = held("fp8", QuantizedTensor(data.view(torch.float8_e4m3fn), ones(1, 1), FP8))
        assert bool(decode(w, 2, 3)[0, place].isnan())
        for count in (1, 6):
            y = multiply(w, torch.ones(count, 128))
            assert bool(y[:, 2].isnan().all()) and int(y.isnan().sum()) == count


@pytest.mark.parametrize("name", ["fp4", "fp8"])
@pytest.mark.parametrize("code", [0, 1, 2, 126, 128, 253, 254, 255])
def test_scales_at_their_limits(name: str, code: int) -> None:
    """The first half of the columns with that scale, the rest with 1; all within float32."""
    values = torch.tensor([0.5, -1.5, 1.0, -0.5, 0.0]).repeat(52)[:256][None]
    form = QUANTIZED[name]
    if name == "fp4":
        data = formats.pack_e2m1(formats.encode_e2m1(values))
    else:
        data = formats.encode_e4m3(values)
    count = 256 // form.block[1]
    scale = ones(1, count)
    scale.view(torch.uint8)[:, : count // 2] = code
    w = held(name, QuantizedTensor(data, scale, form))
    assert torch.equal(decode(w, 0, 1).isnan(), w.exact.isnan())
    assert torch.equal(decode(w, 0, 1).nan_to_num(), w.exact.float().nan_to_num())
    x = torch.zeros(6, 256)
    # 127 is its own int8, with scale 1.
    x[:, torch.tensor([0, 41, 100, 127])] = 127 * 2.0 ** (127 - min(max(code, 34), 227))
    expected = (x.double() @ w.exact.T).float()
    for count in (1, 6):
        y = multiply(w, x[:count])
        assert torch.equal(y.isnan(), expected[:count].isnan())
        assert torch.equal(y.nan_to_num(), expected[:count].nan_to_num())


@pytest.mark.parametrize("cols", [1, 7, 31, 32, 33, 40, 160, 257])
def test_rows_of_a_table_are_decoded_exactly(cols: int) -> None:
    """Any code there is, and for every 32 columns of a row another scale."""
    generator = torch.Generator().manual_seed(cols)
    data = torch.randint(0, 256, (9, cols), generator=generator, dtype=torch.uint8)
    scale = torch.randint(100, 150, (9, -(-cols // 32)), generator=generator, dtype=torch.uint8)
    scale[3, -1] = 255
    table = QuantizedTensor(
        data.view(torch.float8_e4m3fn), scale.view(torch.float8_e8m0fnu), FP8_ROWS
    )
    want = held("fp8-rows", table).exact.float()
    assert bool(want[3, -1].isnan())
    for row in (0, 3, 8):
        found = decode(held("fp8-rows", table), row, row + 1)[0]
        assert torch.equal(found.isnan(), want[row].isnan())
        assert torch.equal(found.nan_to_num(), want[row].nan_to_num())


def test_inputs_of_fp4_weights_are_rounded_to_int8() -> None:
    x = torch.cat([torch.tensor([127.0, -127, 0.5, 1.5, 2.5, -0.5, -1.5, 126.4]), torch.zeros(24)])
    whole = torch.tensor([127.0, -127, 0, 2, 2, 0, -2, 126])
    w = stored("fp4", torch.eye(32))
    for scale in (1.0, 2.0**-90, 2.0**90):
        assert torch.equal(multiply(w, scale * x[None])[0, :8], scale * whole), scale
    # A value that is not finite spoils its block of 32, wherever it stands, and no other token.
    ones = stored("fp4", torch.ones(3, 96))
    for bad in (torch.nan, torch.inf, -torch.inf):
        for place in (0, 31, 32, 95):
            x = torch.ones(20, 96)
            x[7, place] = bad
            for count in (9, 20):
                y = multiply(ones, x[:count])
                assert not bool(y[7].isfinite().any())
                assert int(y.isfinite().sum()) == 3 * (count - 1)
    # Too small for an int8, and nothing at all.
    assert float(multiply(ones, torch.full((1, 96), 1e-38)).abs().max()) == 0
    assert torch.equal(fake_quant_int8(torch.zeros(1, 40)), torch.zeros(1, 40))


def test_inputs_are_rounded_to_the_nearest_even_bfloat16() -> None:
    halves = torch.tensor([1 + 2.0**-8, 1 + 3 * 2.0**-8, -1 - 2.0**-8, 1 + 2.0**-8 + 2.0**-20])
    w = stored("bf16", torch.eye(4))
    assert torch.equal(multiply(w, halves[None])[0], halves.bfloat16().float())
    x = torch.tensor([[torch.nan, 1.0, torch.inf, 2.0]])
    assert bool(multiply(w, x).isnan().all())  # NaN * 0 and infinity * 0
    one = stored("bf16", torch.ones(1, 1))
    assert multiply(one, torch.tensor([[torch.inf], [-torch.inf]])).tolist() == [
        [torch.inf],
        [-torch.inf],
    ]
