"""How rows of a decoding state are stored: float32, or the byte formats of the serving cache.

| format | stored | 512 channels, 64 rotated |
|---|---|---|
| Float32Rows | float32 | 2048 bytes |
| KvRows | e4m3 with a scale per 64, rotated channels bfloat16 | 584 bytes |
| KeyRows | e2m1 with a scale per 32 (index keys) | 68 bytes for 128 channels |

A stored row is what the row was rounded to: storing rounded values again changes none of them.
Shapes: `...` any axes, C channels, S stored numbers of a row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from dsv4.numerics import formats
from dsv4.numerics.activation import block_scales

KV_BLOCK = 64
"""Channels that share one scale in the FP8 part of a KV entry."""
KEY_BLOCK = 32
"""Channels of an index key that share one scale."""


class RowFormat(Protocol):
    """How one row of `width` channels is stored: `stored` numbers of `dtype`."""

    @property
    def width(self) -> int: ...
    @property
    def stored(self) -> int: ...
    @property
    def dtype(self) -> torch.dtype: ...

    def encode(self, rows_C: Tensor) -> Tensor:
        """`[..., C]` to `[..., S]`."""

    def decode(self, stored_S: Tensor) -> Tensor:
        """`[..., S]` to float32 `[..., C]`."""


@dataclass(frozen=True, slots=True)
class Float32Rows:
    """Rows as they are; holds what any policy rounds to exactly."""

    width: int
    dtype: ClassVar[torch.dtype] = torch.float32

    @property
    def stored(self) -> int:
        return self.width

    def encode(self, rows_C: Tensor) -> Tensor:
        return rows_C.detach().float()

    def decode(self, stored_S: Tensor) -> Tensor:
        return stored_S


@dataclass(frozen=True, slots=True)
class KvRows:
    """KV entries: `width - rotated` e4m3 bytes, `rotated` bfloat16, then e8m0 scales, padded."""

    width: int
    rotated: int
    dtype: ClassVar[torch.dtype] = torch.uint8

    @property
    def plain(self) -> int:
        """Channels stored as e4m3."""
        return self.width - self.rotated

    @property
    def scales(self) -> int:
        return -(-self.plain // KV_BLOCK)

    @property
    def stored(self) -> int:
        return self.plain + 2 * self.rotated + -(-self.scales // 8) * 8

    def encode(self, rows_C: Tensor) -> Tensor:
        plain_C = rows_C[..., : self.plain].detach().float()
        scales = block_scales(plain_C, KV_BLOCK, formats.E4M3_MAX, 1e-4)
        spread = scales.repeat_interleave(KV_BLOCK, -1)[..., : self.plain]
        codes = formats.encode_e4m3(plain_C / spread).view(torch.uint8)
        turned = rows_C[..., self.plain :].detach().to(torch.bfloat16).contiguous()
        scale_bytes = formats.encode_e8m0(scales).view(torch.uint8)
        padding = scale_bytes.new_zeros(*scale_bytes.shape[:-1], -self.scales % 8)
        return torch.cat((codes, turned.view(torch.uint8), scale_bytes, padding), -1)

    def decode(self, stored_S: Tensor) -> Tensor:
        end = self.plain + 2 * self.rotated
        values = formats.decode_e4m3(stored_S[..., : self.plain])
        scales = formats.decode_e8m0(stored_S[..., end : end + self.scales])
        values *= scales.repeat_interleave(KV_BLOCK, -1)[..., : self.plain]
        turned = stored_S[..., self.plain : end].contiguous().view(torch.bfloat16)
        return torch.cat((values, turned.float()), -1)


@dataclass(frozen=True, slots=True)
class KeyRows:
    """Index keys: `width / 2` bytes of e2m1 pairs, then e8m0 scales."""

    width: int
    dtype: ClassVar[torch.dtype] = torch.uint8

    @property
    def scales(self) -> int:
        return -(-self.width // KEY_BLOCK)

    @property
    def stored(self) -> int:
        return self.width // 2 + self.scales

    def encode(self, rows_C: Tensor) -> Tensor:
        values = rows_C.detach().float()
        scales = block_scales(values, KEY_BLOCK, formats.E2M1_MAX, 6 * 2.0**-126)
        spread = scales.repeat_interleave(KEY_BLOCK, -1)[..., : self.width]
        codes = formats.pack_e2m1(formats.encode_e2m1(values / spread)).view(torch.uint8)
        return torch.cat((codes, formats.encode_e8m0(scales).view(torch.uint8)), -1)

    def decode(self, stored_S: Tensor) -> Tensor:
        values = formats.decode_packed_e2m1(stored_S[..., : self.width // 2].contiguous())
        scales = formats.decode_e8m0(stored_S[..., self.width // 2 :])
        values *= scales.repeat_interleave(KEY_BLOCK, -1)[..., : self.width]
        return values
