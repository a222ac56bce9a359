"""Everything that survives between two calls of the model.

A token's keys stay in a ring for as long as the window (and a rewind) can reach them; the
compressed entries of finished blocks are appended to logs that never change. What a layer
needs at position p is a function of p alone, so rewinding moves one number. All rows are float32,
which holds what any policy rounds to exactly, so that reading them converts nothing.

Shapes: B batch, X row width, T new rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from dsv4.config import CSA, ModelConfig
from dsv4.errors import StateError

REWIND = 128
"""Tokens a state can be rewound by at least, without a clone."""


class Ring:
    """Rows of the last `capacity` positions; position p lies in slot `p % capacity`."""

    def __init__(self, batch: int, capacity: int, width: int) -> None:
        self.rows = torch.zeros(batch, capacity, width)
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
        self.rows[:, slots] = rows_BTX[:, first - start :].detach().float()
        self.written = max(self.written, end)

    def read(self, start: int, stop: int) -> Tensor:
        """Rows of positions `start .. stop - 1`, `[B, stop - start, X]`."""
        assert self.oldest <= start <= stop <= self.written
        return self.rows[:, torch.arange(start, stop) % self.rows.shape[1]]


class Log:
    """Rows numbered from 0, appended at the end; capacity doubles when it is used up."""

    def __init__(self, batch: int, width: int) -> None:
        self.rows = torch.zeros(batch, 0, width)

    def write(self, start: int, rows_BTX: Tensor) -> None:
        """Store rows `start, start + 1, ...`; what was there (before a rewind) is replaced."""
        end = start + rows_BTX.shape[1]
        capacity = self.rows.shape[1]
        if end > capacity:
            batch, _, width = self.rows.shape
            grown = self.rows.new_zeros(batch, max(end, 2 * capacity, 64), width)
            grown[:, :start] = self.rows[:, :start]
            self.rows = grown
        self.rows[:, start:end] = rows_BTX.detach().float()

    def read(self, stop: int) -> Tensor:
        """Rows `0 .. stop - 1`."""
        return self.rows[:, :stop]


class CompressorState:
    """Token rows of unfinished blocks (and of the previous one, if blocks overlap), entries."""

    def __init__(self, batch: int, ratio: int, width: int, rewind: int) -> None:
        overlaps = ratio == CSA
        row = 2 * width if overlaps else width
        self.reach = ratio * (2 if overlaps else 1) - 1
        self.values = Ring(batch, self.reach + rewind + 1, row)
        self.gates = Ring(batch, self.reach + rewind + 1, row)
        self.entries = Log(batch, width)


class LayerState:
    """One layer's window ring, and its compressors' states if it has any."""

    def __init__(self, config: ModelConfig, ratio: int, batch: int, rewind: int) -> None:
        self.reach = config.sliding_window - 1
        capacity = self.reach + rewind + 1
        self.window = Ring(batch, capacity, config.head_dim)
        self.compressor: CompressorState | None = None
        self.indexer: CompressorState | None = None
        if ratio:
            self.compressor = CompressorState(batch, ratio, config.head_dim, rewind)
        if ratio == CSA:
            self.indexer = CompressorState(batch, ratio, config.index_head_dim, rewind)

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


class State:
    """The decoding state of `batch` sequences of equal `length`, for a stack of layers.

    Reading: `length` (tokens consumed). Only the model writes; callers `rewind`,
    `clone`, and store it with `to_tensors` / `load_tensors`.
    """

    def __init__(self, shape: StateShape) -> None:
        self.shape = shape
        self.length = 0
        self.layers = [
            LayerState(shape.config, ratio, shape.batch, shape.rewind) for ratio in shape.ratios
        ]

    @classmethod
    def empty(
        cls,
        config: ModelConfig,
        ratios: tuple[int, ...],
        batch: int = 1,
        rewind: int = REWIND,
    ) -> State:
        """A state before the first token, for layers with the given compression ratios."""
        return cls(StateShape(config, ratios, batch, rewind))

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
                tensors[f"layers.{i}.{name}"] = log.read(count).clone()
        return tensors

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Take over what `to_tensors` gave; raises StateError if it is another state's."""
        want = self.to_tensors()
        if set(want) != set(tensors) or tensors["length"].numel() != 1:
            raise StateError("stored state does not belong to this model: other tensor names")
        length = int(tensors["length"])
        for i, (layer, ratio) in enumerate(zip(self.layers, self.shape.ratios, strict=True)):
            for name, ring, _ in layer.rings():
                self._check(f"layers.{i}.{name}", tensors, tuple(ring.rows.shape))
            for name, log in layer.logs():
                rows = (self.shape.batch, length // ratio, log.rows.shape[2])
                self._check(f"layers.{i}.{name}", tensors, rows)
        for i, layer in enumerate(self.layers):
            for name, ring, _ in layer.rings():
                ring.rows = tensors[f"layers.{i}.{name}"].clone()
                ring.written = int(tensors[f"layers.{i}.{name}.written"])
            for name, log in layer.logs():
                log.rows = tensors[f"layers.{i}.{name}"].clone()
        self.length = length

    @staticmethod
    def _check(name: str, tensors: dict[str, Tensor], shape: tuple[int, ...]) -> None:
        found = tensors[name]
        if tuple(found.shape) != shape or found.dtype != torch.float32:
            raise StateError(
                f"stored state does not belong to this model: {name} is {found.dtype} "
                f"{list(found.shape)}, expected float32 {list(shape)}"
            )
