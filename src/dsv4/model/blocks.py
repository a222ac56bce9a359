"""Compressed entries in blocks of 128 tokens: what of a state grows, and can be shared.

A block holds, for every layer that compresses, the entries of its 128 tokens and their index keys:
32 + 32 rows of a CSA layer, one of an HCA layer (report 3.4). It is one piece of memory, so that
it can be handed to another sequence, or to a disk, as it is. A finished block never changes.

Shapes: B sequences of a state, X row width, S stored numbers of a row.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from dsv4.config import CSA, ModelConfig
from dsv4.numerics.rows import Float32Rows, KeyRows, KvRows, RowFormat

BLOCK = 128
"""Tokens of a block: the least common multiple of the compression ratios."""

_ALIGNED = 64
"""Rows of a layer begin at multiples of so many bytes."""


def row_formats(config: ModelConfig, packed: bool) -> tuple[RowFormat, RowFormat]:
    """How (KV entries, index keys) of a model are stored."""
    if not packed:
        return Float32Rows(config.head_dim), Float32Rows(config.index_head_dim)
    return KvRows(config.head_dim, config.qk_rope_head_dim), KeyRows(config.index_head_dim)


@dataclass(frozen=True, slots=True)
class Section:
    """Where the rows of one layer lie in a block: `count` of them, from byte `offset` on."""

    offset: int
    count: int
    format: RowFormat

    @property
    def stride(self) -> int:
        """Bytes of a row."""
        return self.format.stored * self.format.dtype.itemsize

    @property
    def end(self) -> int:
        return self.offset + self.count * self.stride


@dataclass(frozen=True, slots=True)
class Layout:
    """The sections of a block, per layer: (entries, index keys), None where there are none."""

    layers: tuple[tuple[Section | None, Section | None], ...]
    nbytes: int


def layout(config: ModelConfig, ratios: tuple[int, ...], packed: bool) -> Layout:
    """How a block of layers with these compression ratios is laid out."""
    entry, key = row_formats(config, packed)
    layers: list[tuple[Section | None, Section | None]] = []
    end = 0

    def section(count: int, format: RowFormat) -> Section:
        nonlocal end
        made = Section(-(-end // _ALIGNED) * _ALIGNED, count, format)
        end = made.end
        return made

    for ratio in ratios:
        entries = section(BLOCK // ratio, entry) if ratio else None
        layers.append((entries, section(BLOCK // ratio, key) if ratio == CSA else None))
    return Layout(tuple(layers), end)


class BlockTable:
    """The blocks of `batch` sequences of equal length, in order. All layers share them."""

    def __init__(self, layout: Layout, batch: int) -> None:
        self.layout, self.batch = layout, batch
        self.blocks: list[Tensor] = []
        """Each `[B, bytes]` uint8."""
        self.addresses = torch.empty(batch, 16, dtype=torch.int64)
        """Where the blocks lie, `[B, capacity]`: what kernels read."""
        self.sealed = 0
        """Tokens whose blocks others may have too: they are not written to."""

    def __len__(self) -> int:
        return len(self.blocks)

    def reserve(self, length: int) -> None:
        """Have blocks for `length` tokens."""
        if self.layout.nbytes:
            for _ in range(len(self.blocks), -(-length // BLOCK)):
                self.append(torch.empty(self.batch, self.layout.nbytes, dtype=torch.uint8))

    def append(self, block: Tensor) -> None:
        """Put a block at the end."""
        self.blocks.append(block)
        self._place(len(self.blocks) - 1)

    def unseal(self, length: int) -> None:
        """Allow writing from position `length` on: shared blocks there become copies."""
        for i in range(length // BLOCK, self.sealed // BLOCK):
            self.blocks[i] = self.blocks[i].clone()
            self._place(i)
        self.sealed = min(self.sealed, length // BLOCK * BLOCK)

    def share(self, i: int, block: Tensor) -> None:
        """Take `block`, which is equal, in place of block `i`; neither will be written to again."""
        if block is not self.blocks[i]:
            self.blocks[i] = block
            self._place(i)
        self.sealed = max(self.sealed, (i + 1) * BLOCK)

    def truncate(self, count: int) -> None:
        """Let go of all blocks but the first `count`."""
        del self.blocks[count:]

    def _place(self, i: int) -> None:
        capacity = self.addresses.shape[1]
        if i == capacity:
            grown = self.addresses.new_empty(self.batch, 2 * capacity)
            grown[:, :capacity] = self.addresses
            self.addresses = grown
        block = self.blocks[i]
        first = block.data_ptr()
        for b in range(self.batch):
            self.addresses[b, i] = first + b * block.shape[1]


class Entries:
    """Rows of one layer, numbered from 0, in the blocks of a table."""

    def __init__(self, table: BlockTable, section: Section) -> None:
        self.table, self.section = table, section

    def write(self, start: int, rows_BTX: Tensor) -> None:
        """Store rows `start, start + 1, ...`, but not in blocks that are sealed; what was there
        (before a rewind) is replaced."""
        first = max(start, self.table.sealed // (BLOCK // self.section.count))
        self.write_stored(first, self.section.format.encode(rows_BTX[:, first - start :]))

    def write_stored(self, start: int, rows_BTS: Tensor) -> None:
        """The same with rows in their stored form."""
        for i, first, last in self._parts(start, start + rows_BTS.shape[1]):
            at = i * self.section.count + first - start
            self._rows(self.table.blocks[i])[:, first:last] = rows_BTS[:, at : at + last - first]

    def read(self, stop: int) -> Tensor:
        """Rows `0 .. stop - 1`, `[B, stop, X]` float32."""
        return self.section.format.decode(self.read_stored(stop))

    def read_stored(self, stop: int) -> Tensor:
        """The same in their stored form, `[B, stop, S]` (a copy)."""
        format, count = self.section.format, self.section.count
        blocks = self.table.blocks[: -(-stop // count)]
        if not blocks:
            return torch.zeros(self.table.batch, 0, format.stored, dtype=format.dtype)
        return torch.cat([self._rows(block) for block in blocks], 1)[:, :stop]

    def _rows(self, block: Tensor) -> Tensor:
        section = self.section
        part = block[:, section.offset : section.end].view(section.format.dtype)
        return part.view(part.shape[0], section.count, section.format.stored)

    def _parts(self, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
        """(block, first row in it, end) of the rows `start .. stop - 1`."""
        count = self.section.count
        for i in range(start // count, -(-stop // count)):
            yield i, max(0, start - i * count), min(count, stop - i * count)
