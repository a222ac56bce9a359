"""Known failures of engines, as changes of ours: what is wrong in what is kept between steps,
among sequences, or from earlier requests.

Numbers are those of the architecture notes, section 16, as in `evaluation/conformance/faults/`,
whose failures are of a model's arithmetic. `dsv4 verify URL` has to find each.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from dsv4.evaluation.conformance.faults.fault import swapped
from dsv4.model.state import Ring, State
from dsv4.model.transformer import Output, Piece, Transformer


@dataclass(frozen=True, slots=True)
class EngineFault:
    """`number`: in section 16 of the architecture notes. `probe`: of `dsv4 verify URL`."""

    name: str
    number: int
    title: str
    probe: str
    planted: Callable[[], AbstractContextManager[None]]


ENGINE_FAULTS: dict[str, EngineFault] = {}


def _fault(number: int, title: str, probe: str) -> Callable[[Callable[[], Iterator[None]]], None]:
    """Enter a change into the list, under the name of its function."""

    def enter(function: Callable[[], Iterator[None]]) -> None:
        name = function.__name__.strip("_").replace("_", "-")
        change = contextlib.contextmanager(function)
        ENGINE_FAULTS[name] = EngineFault(name, number, title, probe, change)

    return enter


@_fault(8, "a refused guess leaves its rows in the state", "speculation")
def _refused_rows_kept() -> Iterator[None]:
    rewind, forward_many = State.rewind, Transformer.forward_many
    refused: WeakKeyDictionary[State, list[tuple[Ring, int, Tensor]]] = WeakKeyDictionary()

    def noting(self: State, length: int) -> None:
        end = self.length
        if max(1, self.earliest) <= length < end:
            rings = [ring for _, ring in self.rings()]
            refused[self] = [(ring, length, ring.read_stored(length, end)) for ring in rings]
        rewind(self, length)

    def keeping(self: Transformer, pieces: Sequence[Piece]) -> list[Output]:
        outputs = forward_many(self, pieces)
        for piece in pieces:
            for ring, start, rows in refused.pop(piece.state, []):
                ring.write_stored(start, rows)
        return outputs

    with swapped(State, "rewind", noting), swapped(Transformer, "forward_many", keeping):
        yield


@_fault(16, "padding of shorter rows is pooled into entries", "load")
def _padding_pooled() -> Iterator[None]:
    forward_many = Transformer.forward_many

    def padded(self: Transformer, pieces: Sequence[Piece]) -> list[Output]:
        outputs = forward_many(self, pieces)
        longest = max(piece.ids_T.numel() for piece in pieces)
        for piece in pieces:
            missing = longest - piece.ids_T.numel()
            if missing:
                row = piece.state.clone()
                forward_many(self, [Piece(torch.zeros(missing, dtype=torch.int64), row, 1)])
                _take_last_rows(piece.state, row)
        return outputs

    def _take_last_rows(state: State, row: State) -> None:
        """As the rows of an unfinished block, those at the end of the padded row."""
        for (name, ring), (_, other) in zip(state.rings(), row.rings(), strict=True):
            if "compressor" in name or "indexer" in name:
                begun = state.length % ring.unit
                last = other.read_stored(row.length - begun, row.length)
                ring.write_stored(state.length - begun, last)

    with swapped(Transformer, "forward_many", padded):
        yield


def _hits_without(*names: str) -> AbstractContextManager[None]:
    """Go on from cached blocks with rings of these names empty."""
    resume = State.resume

    def changed(self: State, blocks: list[Tensor], tail: Tensor) -> None:
        resume(self, blocks, tail)
        for name, ring in self.rings():
            if any(part in name for part in names):
                ring.rows.zero_()

    return swapped(State, "resume", changed)


@_fault(17, "a cache hit restores no window", "cache")
def _hits_without_window() -> Iterator[None]:
    with _hits_without("window"):
        yield


@_fault(17, "a cache hit restores no rows of compressors", "cache")
def _hits_without_tail() -> Iterator[None]:
    with _hits_without("compressor", "indexer"):
        yield
