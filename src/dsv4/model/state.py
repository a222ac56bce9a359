"""Everything that survives between two calls of the model.

A token's keys stay in a ring for as long as the window (and a rewind) can reach them; the
compressed entries of finished blocks are appended to logs that never change. What a layer
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
from dsv4.errors import StateError
from dsv4.numerics.rows import Float32Rows, KeyRows, KvRows, RowFormat

REWIND = 128
"""Tokens a state can be rewound by at least, without a clone."""


class Ring:
    """Rows of the last `capacity` positions; position p lies in slot `p % capacity`."""

    def __init__(self, batch: int, capacity: int, format: RowFormat) -> None:
        self.format = format
        self.rows = torch.zeros(batch, capacity, format.stored, dtype=format.dtype)
        self.written = 0  # one past the highest position ever written, also after a rewind

    @property
    def oldest(self) -> int:
        """The lowest position whose row is still held."""
        return max(0, self.written - self.rows.shape[1])

    def write(self, start: int, rows_BTX: Tensor) -> None:
        """Store rows of positions `start, start + 1, ...` (only the last `capacity` of them)."""
        capacity, end = self.rows.shape[1], start + rows_BTX.shape[1]
        first = max(start, end - capacity)
        slots = torch.arange(first, end) % capacity
        self.rows[:, slots] = self.format.encode(rows_BTX[:, first - start :])
        self.reached(end)

    def reached(self, end: int) -> None:
        """Note that rows up to position `end - 1` are written."""
        self.written = max(self.written, end)

    def read(self, start: int, stop: int) -> Tensor:
        """Rows of positions `start .. stop - 1`, `[B, stop - start, X]`."""
        assert self.oldest <= start <= stop <= self.written
        return self.format.decode(self.rows[:, torch.arange(start, stop) % self.rows.shape[1]])


class Log:
    """Rows numbered from 0, appended at the end; capacity doubles when it is used up."""

    def __init__(self, batch: int, format: RowFormat) -> None:
        self.format = format
        self.rows = torch.zeros(batch, 0, format.stored, dtype=format.dtype)

    def reserve(self, count: int) -> None:
        """Make room for `count` rows in all; what is stored stays."""
        capacity = self.rows.shape[1]
        if count > capacity:
            batch, _, stored = self.rows.shape
            # Memory that was never written to takes no room yet.
            grown = self.rows.new_zeros(batch, max(count, 2 * capacity, 64), stored)
            grown[:, :capacity] = self.rows
            self.rows = grown

    def write(self, start: int, rows_BTX: Tensor) -> None:
        """Store rows `start, start + 1, ...`; what was there (before a rewind) is replaced."""
        end = start + rows_BTX.shape[1]
        self.reserve(end)
        self.rows[:, start:end] = self.format.encode(rows_BTX)

    def read(self, stop: int) -> Tensor:
        """Rows `0 .. stop - 1`, `[B, stop, X]` float32."""
        return self.format.decode(self.rows[:, :stop])


class CompressorState:
    """Token rows of unfinished blocks (and of the previous one, if blocks overlap), entries."""

    def __init__(self, batch: int, ratio: int, rewind: int, format: RowFormat) -> None:
        overlaps = ratio == CSA
        row = Float32Rows(2 * format.width if overlaps else format.width)
        self.reach = ratio * (2 if overlaps else 1) - 1
        self.values = Ring(batch, self.reach + rewind + 1, row)
        self.gates = Ring(batch, self.reach + rewind + 1, row)
        self.entries = Log(batch, format)


def row_formats(config: ModelConfig, packed: bool) -> tuple[RowFormat, RowFormat]:
    """How (KV entries, index keys) of a model are stored."""
    if not packed:
        return Float32Rows(config.head_dim), Float32Rows(config.index_head_dim)
    return KvRows(config.head_dim, config.qk_rope_head_dim), KeyRows(config.index_head_dim)


class LayerState:
    """One layer's window ring, and its compressors' states if it has any."""

    def __init__(self, shape: StateShape, ratio: int) -> None:
        config, batch, rewind = shape.config, shape.batch, shape.rewind
        self.ratio = ratio
        self.reach = config.sliding_window - 1
        entry, key = row_formats(config, shape.packed)
        self.window = Ring(batch, self.reach + rewind + 1, entry)
        self.compressor: CompressorState | None = None
        self.indexer: CompressorState | None = None
        if ratio:
            self.compressor = CompressorState(batch, ratio, rewind, entry)
        if ratio == CSA:
            self.indexer = CompressorState(batch, ratio, rewind, key)

    def rings(self) -> Iterator[tuple[str, Ring, int]]:
        """(name, ring, rows it must still hold before the current position)."""
        yield "window", self.window, self.reach
        for name, part in (("compressor", self.compressor), ("indexer", self.indexer)):
            if part is not None:
                yield f"{name}.values", part.values, part.reach
                yield f"{name}.gates", part.gates, part.reach

    def logs(self) -> Iterator[tuple[str, Log]]:
        for name, part in (("compressor", self.compressor), ("indexer", self.indexer)):
            if part is not None:
                yield f"{name}.entries", part.entries


@dataclass(frozen=True, slots=True)
class StateShape:
    """What a state was made for; two states with equal shapes are interchangeable."""

    config: ModelConfig
    ratios: tuple[int, ...]
    batch: int
    rewind: int
    packed: bool


class State:
    """The decoding state of `batch` sequences of equal `length`, for a stack of layers.

    Reading: `length` (tokens consumed). Only the model writes; callers `rewind`,
    `clone`, and store it with `to_tensors` / `load_tensors`.
    """

    def __init__(self, shape: StateShape) -> None:
        self.shape = shape
        self.length = 0
        self.layers = [LayerState(shape, ratio) for ratio in shape.ratios]

    @classmethod
    def empty(
        cls,
        config: ModelConfig,
        ratios: tuple[int, ...],
        batch: int = 1,
        rewind: int = REWIND,
        *,
        packed: bool = False,
    ) -> State:
        """A state before the first token, for layers with the given compression ratios.

        `packed`: keep entries in the formats of the serving cache (`numerics.rows`).
        """
        return cls(StateShape(config, ratios, batch, rewind, packed))

    def reserve(self, length: int) -> None:
        """Make room for `length` tokens in all, so that growing to it copies nothing."""
        for layer in self.layers:
            for _, log in layer.logs():
                log.reserve(length // layer.ratio)

    @property
    def nbytes(self) -> int:
        """Bytes in use: rings, and entries up to `length`."""
        total = 0
        for layer in self.layers:
            total += sum(ring.rows.nbytes for _, ring, _ in layer.rings())
            for _, log in layer.logs():
                total += log.rows[:, : self.length // layer.ratio].nbytes
        return total

    @property
    def earliest(self) -> int:
        """The shortest length this state can be rewound to."""
        low = 0
        for layer in self.layers:
            for _, ring, reach in layer.rings():
                if ring.oldest:
                    low = max(low, ring.oldest + reach)
        return low

    def rewind(self, length: int) -> None:
        """Forget every token from position `length` on (to 0 from anywhere).

        Raises StateError if `length` is ahead of the state or further back than it holds.
        """
        reachable = length in (0, self.length) or self.earliest <= length < self.length
        if not reachable:
            raise StateError(
                f"a state of {self.length} tokens can not be rewound to {length}",
                f"it reaches back to {self.earliest}; clone() it earlier, or prefill again",
            )
        self.length = length
        if length == 0:
            for layer in self.layers:
                for _, ring, _ in layer.rings():
                    ring.written = 0

    def clone(self) -> State:
        """An independent copy; continuing one leaves the other as it is."""
        other = State(self.shape)
        other.load_tensors(self.to_tensors())
        return other

    def to_tensors(self) -> dict[str, Tensor]:
        """Everything the state holds, as named tensors (copies)."""
        tensors = {"length": torch.tensor(self.length)}
        for i, (layer, ratio) in enumerate(zip(self.layers, self.shape.ratios, strict=True)):
            for name, ring, _ in layer.rings():
                tensors[f"layers.{i}.{name}"] = ring.rows.clone()
                tensors[f"layers.{i}.{name}.written"] = torch.tensor(ring.written)
            for name, log in layer.logs():
                count = self.length // ratio
                tensors[f"layers.{i}.{name}"] = log.rows[:, :count].clone()
        return tensors

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Take over what `to_tensors` gave; raises StateError if it is another state's."""
        want = self.to_tensors()
        if set(want) != set(tensors) or tensors["length"].numel() != 1:
            raise StateError("stored state does not belong to this model: other tensor names")
        length = int(tensors["length"])
        for i, (layer, ratio) in enumerate(zip(self.layers, self.shape.ratios, strict=True)):
            for name, ring, _ in layer.rings():
                self._check(f"layers.{i}.{name}", tensors, ring.rows, ring.rows.shape[1])
            for name, log in layer.logs():
                self._check(f"layers.{i}.{name}", tensors, log.rows, length // ratio)
        for i, layer in enumerate(self.layers):
            for name, ring, _ in layer.rings():
                ring.rows = tensors[f"layers.{i}.{name}"].clone()
                ring.written = int(tensors[f"layers.{i}.{name}.written"])
            for name, log in layer.logs():
                log.rows = tensors[f"layers.{i}.{name}"].clone()
        self.length = length

    @staticmethod
    def _check(name: str, tensors: dict[str, Tensor], like: Tensor, count: int) -> None:
        """Whether the tensor called `name` holds `count` rows of the kind of `like` [B, n, S]."""
        found, shape = tensors[name], [like.shape[0], count, like.shape[2]]
        if list(found.shape) != shape or found.dtype != like.dtype:
            raise StateError(
                f"stored state does not belong to this model: {name} is {found.dtype} "
                f"{list(found.shape)}, expected {like.dtype} {shape}"
            )
