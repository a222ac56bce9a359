"""Everything that survives between two calls of the model.

A token's keys stay in a ring for as long as the window (and a rewind) can reach them; the
compressed entries of finished blocks are appended and never change (`model.blocks`). What a layer
needs at position p is a function of p alone, so rewinding moves one number. Rows are float32,
which holds what any policy rounds to exactly, or packed as the serving cache stores them.

Shapes: B batch, X row width, S stored numbers of a row, T new rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from dsv4.config import CSA, ModelConfig
from dsv4.engram import EngramConfig
from dsv4.errors import StateError
from dsv4.model.blocks import BLOCK, BlockTable, Entries, Section, layout, row_formats
from dsv4.numerics.rows import Float32Rows, RowFormat

REWIND = 128
"""Tokens a state can be rewound by at least, without a clone."""


class Ring:
    """Rows of the last positions; position p lies in slot `p % capacity`.

    At position p the rows from `unit * (p // unit - back)` on are needed; the ring holds them for
    every position that a rewind of `rewind` tokens can reach.
    """

    def __init__(self, batch: int, format: RowFormat, *, unit: int, back: int, rewind: int) -> None:
        self.format, self.unit, self.back = format, unit, back
        capacity = (back + 1) * unit + rewind
        self.rows = torch.zeros(batch, capacity, format.stored, dtype=format.dtype)
        self.written = 0  # one past the highest position ever written, also after a rewind
        self.first = 0  # no row below this position was ever there

    @property
    def oldest(self) -> int:
        """The lowest position whose row is still held."""
        return max(self.first, self.written - self.rows.shape[1])

    @property
    def earliest(self) -> int:
        """The lowest position for which all rows are there that it needs."""
        oldest = self.oldest
        return self.unit * (-(-oldest // self.unit) + self.back) if oldest else 0

    def needed(self, position: int) -> int:
        """The first row that is needed to go on from `position`."""
        return max(0, self.unit * (position // self.unit - self.back))

    def write(self, start: int, rows_BTX: Tensor) -> None:
        """Store rows of positions `start, start + 1, ...` (only the last `capacity` of them)."""
        first = max(0, rows_BTX.shape[1] - self.rows.shape[1])
        self.write_stored(start + first, self.format.encode(rows_BTX[:, first:]))

    def write_stored(self, start: int, rows_BTS: Tensor) -> None:
        """The same with at most `capacity` rows in their stored form."""
        end = start + rows_BTS.shape[1]
        self.rows[:, torch.arange(start, end) % self.rows.shape[1]] = rows_BTS
        self.reached(end)

    def reached(self, end: int) -> None:
        """Note that rows up to position `end - 1` are written."""
        self.written = max(self.written, end)

    def read(self, start: int, stop: int) -> Tensor:
        """Rows of positions `start .. stop - 1`, `[B, stop - start, X]`."""
        return self.format.decode(self.read_stored(start, stop))

    def read_stored(self, start: int, stop: int) -> Tensor:
        """The same in their stored form, `[B, stop - start, S]` (a copy)."""
        assert self.oldest <= start <= stop <= self.written
        return self.rows[:, torch.arange(start, stop) % self.rows.shape[1]]

    def begin(self, first: int, position: int) -> None:
        """Hold nothing but the rows `first .. position - 1`, which are still to be written."""
        self.first, self.written = first, position


class CompressorState:
    """Token rows of unfinished blocks (and of the previous one, if blocks overlap), entries."""

    def __init__(self, shape: StateShape, ratio: int, table: BlockTable, section: Section) -> None:
        overlaps = ratio == CSA
        width = section.format.width
        row = Float32Rows(2 * width if overlaps else width)
        reach = {"unit": ratio, "back": int(overlaps), "rewind": shape.rewind}
        self.values = Ring(shape.batch, row, **reach)
        self.gates = Ring(shape.batch, row, **reach)
        self.entries = Entries(table, section)


class LayerState:
    """One layer's window ring, its compressors' states and its Engram's, if it has any.

    `remembers`: whether its Engram has a convolution, whose inputs of the last tokens it needs.
    """

    def __init__(
        self,
        shape: StateShape,
        ratio: int,
        table: BlockTable,
        sections: tuple[Section | None, Section | None],
        remembers: bool = False,
    ) -> None:
        self.ratio, self.table = ratio, table
        entry, _ = row_formats(shape.config, shape.packed)
        back = shape.config.sliding_window - 1
        self.window = Ring(shape.batch, entry, unit=1, back=back, rewind=shape.rewind)
        entries, keys = sections
        self.compressor = CompressorState(shape, ratio, table, entries) if entries else None
        self.indexer = CompressorState(shape, ratio, table, keys) if keys else None
        self.memory = _conv_ring(shape) if remembers else None

    def rings(self) -> Iterator[tuple[str, Ring]]:
        """(name, ring)."""
        yield "window", self.window
        for name, part in (("compressor", self.compressor), ("indexer", self.indexer)):
            if part is not None:
                yield f"{name}.values", part.values
                yield f"{name}.gates", part.gates
        if self.memory is not None:
            yield "engram.conv", self.memory

    def logs(self) -> Iterator[tuple[str, Entries]]:
        """(name, entries)."""
        for name, part in (("compressor", self.compressor), ("indexer", self.indexer)):
            if part is not None:
                yield f"{name}.entries", part.entries


@dataclass(frozen=True, slots=True)
class StateShape:
    """What a state was made for; two states with equal shapes are interchangeable.

    `engram`: the memory of the layers, whose look-back the state holds (MTP blocks have none).
    """

    config: ModelConfig
    ratios: tuple[int, ...]
    batch: int
    rewind: int
    packed: bool
    engram: EngramConfig | None = None


def _ids_ring(shape: StateShape) -> Ring:
    """The last token ids, one number a row: float32 holds integers up to 2^24."""
    assert shape.engram is not None and shape.config.vocab_size <= 1 << 24
    back = shape.engram.lookback
    return Ring(shape.batch, Float32Rows(1), unit=1, back=back, rewind=shape.rewind)


def _conv_ring(shape: StateShape) -> Ring:
    """What the short convolution of an Engram saw at the last positions."""
    assert shape.engram is not None
    row = Float32Rows(shape.config.hc_mult * shape.config.hidden_size)
    return Ring(shape.batch, row, unit=1, back=shape.engram.convolved, rewind=shape.rewind)


class State:
    """The decoding state of `batch` sequences of equal `length`, for a stack of layers.

    Reading: `length` (tokens consumed). Only the model writes; callers `rewind`,
    `clone`, store it with `to_tensors` / `load_tensors`, and share its finished blocks.
    """

    def __init__(self, shape: StateShape) -> None:
        self.shape = shape
        self.length = 0
        made = layout(shape.config, shape.ratios, shape.packed)
        self.table = BlockTable(made, shape.batch)
        engram = shape.engram
        convolves = engram.layer_ids if engram is not None and engram.conv else ()
        self.layers = [
            LayerState(shape, ratio, self.table, sections, i in convolves)
            for i, (ratio, sections) in enumerate(zip(shape.ratios, made.layers, strict=True))
        ]
        self.ids = _ids_ring(shape) if engram is not None else None

    @classmethod
    def empty(
        cls,
        config: ModelConfig,
        ratios: tuple[int, ...],
        batch: int = 1,
        rewind: int = REWIND,
        *,
        packed: bool = False,
        engram: EngramConfig | None = None,
    ) -> State:
        """A state before the first token, for layers with the given compression ratios.

        `packed`: keep entries in the formats of the serving cache (`numerics.rows`). `engram`:
        the memory that these layers have.
        """
        return cls(StateShape(config, ratios, batch, rewind, packed, engram))

    def rings(self) -> Iterator[tuple[str, Ring]]:
        """(name, ring) of every layer, then of the token ids if there is an Engram."""
        for i, layer in enumerate(self.layers):
            for name, ring in layer.rings():
                yield f"layers.{i}.{name}", ring
        if self.ids is not None:
            yield "ids", self.ids

    def reserve(self, length: int) -> None:
        """Have room for `length` tokens in all."""
        self.table.reserve(length)

    @property
    def nbytes(self) -> int:
        """Bytes in use: rings, and entries up to `length`."""
        return self.ring_bytes + sum(
            self.length // layer.ratio * log.section.stride * self.shape.batch
            for layer in self.layers
            for _, log in layer.logs()
        )

    @property
    def ring_bytes(self) -> int:
        """Bytes of the part that does not grow."""
        return sum(ring.rows.nbytes for _, ring in self.rings())

    @property
    def earliest(self) -> int:
        """The shortest length this state can be rewound to."""
        return max(ring.earliest for _, ring in self.rings())

    def rewind(self, length: int) -> None:
        """Forget every token from position `length` on (to 0 from anywhere).

        Blocks that are shared are copied before they can be written to again. Raises StateError
        if `length` is ahead of the state or further back than it holds.
        """
        reachable = length in (0, self.length) or self.earliest <= length < self.length
        if not reachable:
            raise StateError(
                f"a state of {self.length} tokens can not be rewound to {length}",
                f"it reaches back to {self.earliest}; clone() it earlier, or prefill again",
            )
        self.length = length
        self.table.unseal(length)
        if length == 0:
            for _, ring in self.rings():
                ring.begin(0, 0)

    def tail(self, length: int) -> Tensor:
        """What is needed besides the blocks to go on from `length`, a whole number of blocks that
        the state could be rewound to: rows of the rings, flat uint8."""
        assert length % BLOCK == 0 and self.earliest <= length <= self.length
        return torch.cat(
            [
                ring.read_stored(ring.needed(length), length).view(torch.uint8).flatten()
                for _, ring in self.rings()
            ]
        )

    def resume(self, blocks: list[Tensor], tail: Tensor) -> None:
        """Make this empty state one that has seen the tokens of `blocks`, which stay shared.

        `tail` is that of a state of the same length and shape. Raises StateError if it is not.
        """
        length = len(blocks) * BLOCK
        rings = [ring for _, ring in self.rings()]
        sizes = [(length - ring.needed(length)) * ring.rows[:, 0].nbytes for ring in rings]
        if tail.dtype != torch.uint8 or tail.numel() != sum(sizes):
            raise StateError(
                f"stored state does not belong to this model: a tail of {tail.numel()} bytes, "
                f"expected {sum(sizes)}"
            )
        self._begin(blocks, length)
        for ring, part in zip(rings, tail.split(sizes), strict=True):
            first = ring.needed(length)
            # A copy: a part of the tail may not lie where numbers of this kind can.
            stored = part.clone().view(ring.format.dtype)
            rows_BTS = stored.view(self.shape.batch, -1, ring.format.stored)
            if ring is self.ids:
                self._check_ids(rows_BTS)
            ring.begin(first, first)
            ring.write_stored(first, rows_BTS)

    def resume_blind(self, blocks: list[Tensor], length: int) -> None:
        """Make this empty state one of `length` tokens that has the entries of `blocks`, but not
        the rows of its rings: they are zeros.

        A layer sees as far back as its window, so a layer's rows are right again once the layers
        below are and a window has passed: all are after `window * layers` tokens and as many as
        Engrams look back. What is computed before is to be thrown away; entries that `blocks` hold
        stay as they are.
        """
        assert 0 <= length <= len(blocks) * BLOCK or not self.table.layout.nbytes
        self._begin(blocks, length)
        for _, ring in self.rings():
            ring.begin(ring.needed(length), length)

    def _begin(self, blocks: list[Tensor], length: int) -> None:
        assert self.length == 0
        self.table.truncate(0)
        for block in blocks:
            self.table.append(block)
        self.table.sealed = len(blocks) * BLOCK
        self.length = length

    def clone(self) -> State:
        """An independent copy; continuing one leaves the other as it is."""
        other = State(self.shape)
        other.load_tensors(self.to_tensors())
        return other

    def __deepcopy__(self, memo: object) -> State:
        return self.clone()

    def to_tensors(self) -> dict[str, Tensor]:
        """Everything the state holds, as named tensors (copies)."""
        tensors = {"length": torch.tensor(self.length)}
        for name, ring in self.rings():
            tensors[name] = ring.rows.clone()
            tensors[f"{name}.held"] = torch.tensor([ring.first, ring.written])
        for i, layer in enumerate(self.layers):
            for name, log in layer.logs():
                tensors[f"layers.{i}.{name}"] = log.read_stored(self.length // layer.ratio)
        return tensors

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Take over what `to_tensors` gave; raises StateError if it is another state's."""
        names = self.to_tensors().keys()
        if names != tensors.keys() or tensors["length"].numel() != 1:
            raise StateError("stored state does not belong to this model: other tensor names")
        length = int(tensors["length"])
        for name, ring in self.rings():
            self._check(name, tensors, ring.format, ring.rows.shape[1])
        for i, layer in enumerate(self.layers):
            for name, log in layer.logs():
                count = length // layer.ratio
                self._check(f"layers.{i}.{name}", tensors, log.section.format, count)
        if self.ids is not None:
            self._check_ids(tensors["ids"])
        self.table.truncate(0)
        self.table.sealed = 0
        self.reserve(length)
        for name, ring in self.rings():
            ring.rows.copy_(tensors[name])
            ring.begin(*tensors[f"{name}.held"].tolist())
        for i, layer in enumerate(self.layers):
            for name, log in layer.logs():
                log.write_stored(0, tensors[f"layers.{i}.{name}"])
        self.length = length

    def _check_ids(self, ids: Tensor) -> None:
        """Whether stored token ids can name rows of a table."""
        if ids.numel() and not bool(((ids >= 0) & (ids < self.shape.config.vocab_size)).all()):
            raise StateError("stored state does not belong to this model: it has other token ids")

    def _check(self, name: str, tensors: dict[str, Tensor], format: RowFormat, count: int) -> None:
        """Whether the tensor called `name` holds `count` rows of a format."""
        found, shape = tensors[name], [self.shape.batch, count, format.stored]
        if list(found.shape) != shape or found.dtype != format.dtype:
            raise StateError(
                f"stored state does not belong to this model: {name} is {found.dtype} "
                f"{list(found.shape)}, expected {format.dtype} {shape}"
            )
