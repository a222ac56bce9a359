"""Block-scaled weights: elements, scales and the format that ties them together.

A weight W [out, in] is cut into blocks of `format.block` = (rows, cols); each block has one
scale, and W = element * scale. Blocks at the right and bottom edge may be smaller.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from dsv4.numerics import formats

_SMALLEST_NORMAL = 2.0**-126


@dataclass(frozen=True, slots=True)
class Format:
    """How a quantised weight is stored.

    `element` is the format of one value, `block` = (rows, cols) what shares a scale, `scale` the
    dtype of the scales (float8_e8m0fnu or float32).
    """

    name: str
    element: Literal["e4m3", "e2m1"]
    block: tuple[int, int]
    scale: torch.dtype

    @property
    def packing(self) -> int:
        """Elements per stored byte along the last dimension."""
        return 2 if self.element == "e2m1" else 1

    @property
    def data_dtype(self) -> torch.dtype:
        """dtype of the stored elements."""
        return torch.int8 if self.element == "e2m1" else torch.float8_e4m3fn

    @property
    def max(self) -> float:
        """Largest magnitude of one element."""
        return formats.E2M1_MAX if self.element == "e2m1" else formats.E4M3_MAX

    def data_shape(self, shape: tuple[int, int]) -> tuple[int, int]:
        """Shape of the stored elements of a weight [out, in]."""
        return shape[0], shape[1] // self.packing

    def scale_shape(self, shape: tuple[int, int]) -> tuple[int, int]:
        """Shape of the scales of a weight [out, in]: one per started block."""
        return -(-shape[0] // self.block[0]), -(-shape[1] // self.block[1])


FP8 = Format("fp8", "e4m3", (128, 128), torch.float8_e8m0fnu)
"""Dense weights of the instruct checkpoints."""
FP8_F32 = Format("fp8-f32", "e4m3", (128, 128), torch.float32)
"""All quantised weights of the -Base checkpoints."""
FP8_ROWS = Format("fp8-rows", "e4m3", (1, 32), torch.float8_e8m0fnu)
"""Rows of Engram tables, which are read one by one."""
FP8_32 = Format("fp8-32", "e4m3", (32, 32), torch.float8_e8m0fnu)
"""Engram's projections as V4.1 stores them."""
FP4 = Format("fp4", "e2m1", (1, 32), torch.float8_e8m0fnu)
"""Routed experts of the instruct checkpoints."""


@dataclass(frozen=True, slots=True, eq=False)
class QuantizedTensor:
    """A weight [out, in] in a block-scaled format.

    `data`: stored elements, [out, in] float8_e4m3fn or [out, in/2] int8 (two e2m1 per byte, the
    even element in the low half). `scale`: [ceil(out/rows), ceil(in/cols)]. Both may be
    read-only views of a mapped file; nothing here writes to them.
    """

    data: Tensor
    scale: Tensor
    format: Format

    def __post_init__(self) -> None:
        form = self.format
        assert self.data.dim() == 2 and self.data.dtype == form.data_dtype, self.data.dtype
        assert self.scale.dtype == form.scale, (self.scale.dtype, form.scale)
        assert tuple(self.scale.shape) == form.scale_shape(self.shape), (self.scale.shape, form)

    @property
    def shape(self) -> tuple[int, int]:
        """Logical shape (out, in)."""
        return self.data.shape[0], self.data.shape[1] * self.format.packing

    @property
    def nbytes(self) -> int:
        """Stored bytes, elements and scales."""
        return self.data.nbytes + self.scale.nbytes

    @property
    def device(self) -> torch.device:
        return self.data.device

    def to(self, device: torch.device | str) -> QuantizedTensor:
        """The same weight on another device (itself when it is there already)."""
        if torch.device(device) == self.data.device:
            return self
        return QuantizedTensor(self.data.to(device), self.scale.to(device), self.format)

    def scales(self) -> Tensor:
        """The scales as float32, one per block."""
        if self.scale.dtype == torch.float32:
            return self.scale
        return formats.decode_e8m0(self.scale)

    def dequantize(
        self, dtype: torch.dtype = torch.float32, rows: tuple[int, int] | None = None
    ) -> Tensor:
        """The weight [out, in], or its rows [start, stop), as a new tensor of `dtype`.

        element * scale is taken in float32, where it is exact for e8m0 scales; bfloat16 holds
        those products exactly as well.
        """
        start, stop = rows if rows is not None else (0, self.shape[0])
        assert 0 <= start <= stop <= self.shape[0], (rows, self.shape)
        height, width = self.format.block
        data = self.data[start:stop]
        if self.format.element == "e2m1":
            values = formats.decode_packed_e2m1(data)
        else:
            values = formats.decode_e4m3(data)
        scale = self.scales()
        if height == 1:
            scale = scale[start:stop]
        else:
            scale = scale[torch.arange(start, stop, device=data.device) // height]
        _multiply_blocks(values, scale, width)
        return values.to(dtype)

    def gather(self, rows_R: Tensor) -> Tensor:
        """The rows with these numbers as float32 `[R, in]`; only they are read."""
        assert self.format.element == "e4m3" and self.format.block[0] == 1, self.format
        # torch picks rows of bytes, not of float8.
        values = formats.decode_e4m3(self.data.view(torch.uint8)[rows_R])
        if self.scale.dtype == torch.float32:
            scale = self.scale[rows_R]
        else:
            codes = self.scale.view(torch.uint8)[rows_R]
            scale = formats.decode_e8m0(codes.view(self.scale.dtype))
        _multiply_blocks(values, scale, self.format.block[1])
        return values


def _multiply_blocks(values: Tensor, scale: Tensor, width: int) -> None:
    """values [R, C] *= scale [R, ceil(C/width)], each scale over `width` columns, in place."""
    whole = values.shape[1] // width * width
    if whole:
        values[:, :whole].unflatten(1, (-1, width)).mul_(scale[:, : whole // width, None])
    if whole < values.shape[1]:
        values[:, whole:].mul_(scale[:, -1:])


def _block_max(x: Tensor, block: tuple[int, int]) -> Tensor:
    """Largest magnitude of each block of x [R, C]: [ceil(R/rows), ceil(C/cols)]."""
    (high, wide), (rows, cols) = x.shape, block
    padded = torch.nn.functional.pad(x.abs(), (0, -wide % cols, 0, -high % rows))
    return padded.unflatten(1, (-1, cols)).unflatten(0, (-1, rows)).amax((1, 3))


Weight = Tensor | QuantizedTensor
"""What a matrix may be held as: plain numbers, or codes and scales."""


def quantize(x: Tensor, format: Format) -> QuantizedTensor:
    """x [out, in] (any float dtype) rounded into `format`.

    The scale of a block is the smallest power of two that brings its largest value into range,
    or exactly max / range when scales are float32. A NaN makes its whole block NaN.
    """
    assert x.dim() == 2 and x.shape[1] % format.packing == 0, tuple(x.shape)
    x = x.detach().to(torch.float32)
    limit = format.max
    # The kernels multiply by the reciprocal; so do we, to round where they round.
    scale = _block_max(x, format.block) * (1.0 / limit)
    if format.scale == torch.float32:
        scale = torch.where(scale == 0, 1.0, scale)
        stored = scale
    else:
        scale = formats.round_up_to_power_of_two(scale.clamp_min(_SMALLEST_NORMAL))
        stored = formats.encode_e8m0(scale)
    height, width = format.block
    shrunk = x.clone()
    _multiply_blocks(
        shrunk,
        scale.reciprocal().repeat_interleave(height, 0)[: x.shape[0]],
        width,
    )
    if format.element == "e2m1":
        data = formats.pack_e2m1(formats.encode_e2m1(shrunk))
    else:
        data = formats.encode_e4m3(shrunk)
    return QuantizedTensor(data, stored, format)


def settled(q: QuantizedTensor) -> Tensor:
    """A float32 weight that `quantize` rounds to `q`, and still does after small changes.

    The stored values themselves are a poor start for training. Where the largest of a block is
    the largest code there is, the least growth doubles the block's scale, and all its values are
    rounded anew to half as many steps; where it is half of that, its scale is halved. Such values
    are moved to the middle of what rounds to their code under this scale. (With float32 scales,
    which grow no more than the value does, nothing is moved.)
    """
    values = q.dequantize()
    if q.format.scale == torch.float32:
        return values
    (height, width), (rows, _) = q.format.block, q.shape
    largest = _block_max(values, q.format.block) / q.scales()
    factor = torch.ones_like(largest)
    # (code, the middle of what rounds to it): e2m1 goes 3 4 6, e4m3 224 240 and 416 448.
    e2m1 = q.format.element == "e2m1"
    for code, middle in ((6, 5.5), (3, 3.25)) if e2m1 else ((448, 440), (224, 228)):
        factor = torch.where(largest == code, middle / code, factor)
    spread, ones = torch.ones_like(values), largest.repeat_interleave(height, 0)[:rows]
    _multiply_blocks(spread, ones * q.scales().repeat_interleave(height, 0)[:rows], width)
    moved = values.clone()
    _multiply_blocks(moved, factor.repeat_interleave(height, 0)[:rows], width)
    return torch.where(values.abs() == spread, moved, values)


def repack_fp4_to_fp8(q: QuantizedTensor) -> QuantizedTensor:
    """An FP4 weight as FP8 128x128, by the official rule.

    Per 128x128 tile with largest FP4 scale M the tile scale is S = M/64 and each element becomes
    e4m3(fp4 * scale/S). No value changes while the scales of a tile that carry a non-zero
    element span at most 2^14 (6*64 = 384 <= 448, and 0.5 * 64 * 2^-14 = 2^-9 is the smallest
    e4m3); smaller blocks of a wider tile are rounded.
    """
    assert q.format == FP4, q.format
    out, width = q.shape
    scale = q.scales()
    tile = _block_max(scale, (FP8.block[0], FP8.block[1] // FP4.block[1])) / 64
    tile = tile.clamp_min(2.0**-127)
    spread = tile.repeat_interleave(FP8.block[0], 0)[:out]
    spread = spread.repeat_interleave(FP8.block[1] // FP4.block[1], 1)[:, : scale.shape[1]]
    values = formats.decode_packed_e2m1(q.data)
    _multiply_blocks(values, scale / spread, FP4.block[1])
    assert values.shape == (out, width)
    return QuantizedTensor(formats.encode_e4m3(values), formats.encode_e8m0(tile), FP8)
