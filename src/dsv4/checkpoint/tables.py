"""Engram tables that stay on disk: the rows that tokens read are fetched while layers compute.

Which rows are needed follows from token ids, so they are asked for as soon as those are known.
A row is a few hundred bytes, and n-grams repeat: what was read stays in the system's page cache,
as long as nobody needs that memory more, and costs a microsecond when it is read again.

Shapes: B batch, T tokens, R rows read per token, U different rows, C channels of a row.
"""

from __future__ import annotations

import os
import weakref
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

from dsv4.checkpoint.folder import DTYPES, Stored
from dsv4.checkpoint.plan import Plan, Source
from dsv4.errors import CheckpointError
from dsv4.numerics.quantized import QuantizedTensor, Weight
from dsv4.ops.cpu.engram import gather
from dsv4.ops.cpu.reads import read_places

THREADS = 4
"""Reads of many rows go on side by side; for those of one token a single thread asks for all."""
PIECE = 512
"""Rows that a thread reads at a time."""
MOST_AHEAD = 64 << 20
"""Bytes that were read ahead and not submitted yet; beyond that the oldest are forgotten."""


@dataclass(frozen=True, slots=True)
class _Part:
    """The elements or the scales of a table: `size` bytes of each row, from `offset` on."""

    stored: Stored
    file: int
    size: int

    @classmethod
    def open(cls, stored: Stored) -> _Part:
        try:
            file = os.open(stored.file, os.O_RDONLY)
        except OSError as error:
            raise CheckpointError(
                f"{stored.file.name} cannot be opened: {error.strerror}"
            ) from error
        if hasattr(os, "posix_fadvise"):  # a row's neighbours are of no use
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_RANDOM)
        return cls(stored, file, stored.nbytes // stored.shape[0])

    def read(self, rows_U: Tensor, out_UB: Tensor) -> None:
        try:
            read_places(self.file, rows_U * self.size + self.stored.offset, out_UB)
        except EOFError as error:
            raise CheckpointError(
                f"{self.stored.file.name} ends in the middle of {self.stored.name}",
                "the file became shorter while it was in use: download or write it again",
            ) from error
        except OSError as error:
            raise CheckpointError(
                f"{self.stored.file.name} cannot be read: {error.strerror}"
            ) from error

    def view(self, bytes_UB: Tensor) -> Tensor:
        """Rows of bytes as the numbers they are."""
        return bytes_UB.view(DTYPES[self.stored.dtype])


class _Ticket:
    """Rows on their way: each different one once, in the order of the file."""

    def __init__(self, table: _Table, pool: ThreadPoolExecutor, rows_BTR: Tensor) -> None:
        self._table = table
        rows_U, self._places_BTR = torch.unique(rows_BTR, return_inverse=True)
        U = rows_U.numel()
        self._bytes = [torch.empty(U, part.size, dtype=torch.uint8) for part in table.parts]
        self._reads: list[Future[None]] = [
            pool.submit(self._read, rows_U, start, min(U, start + PIECE))
            for start in range(0, U, PIECE)
        ]

    @property
    def nbytes(self) -> int:
        return sum(part.numel() for part in self._bytes)

    @property
    def failed(self) -> bool:
        """Whether a read has ended in vain."""
        return any(read.done() and read.exception() is not None for read in self._reads)

    def _read(self, rows_U: Tensor, start: int, stop: int) -> None:
        for part, out_UB in zip(self._table.parts, self._bytes, strict=True):
            part.read(rows_U[start:stop], out_UB[start:stop])

    def wait(self) -> Tensor:
        """The rows side by side, `[B, T, R * C]` float32. Raises CheckpointError for a failed
        read."""
        for read in self._reads:
            read.result()
        return gather(self._table.rows(self._bytes), self._places_BTR)


class _Table:
    """One table: where its elements and scales are, and how they are stored."""

    def __init__(self, source: Source, files: list[int]) -> None:
        """files: to which those that are opened are added."""
        self._format = source.format
        self.parts: list[_Part] = []
        for stored in [source.data] if source.scale is None else [source.data, source.scale]:
            self.parts.append(_Part.open(stored))
            files.append(self.parts[-1].file)

    def rows(self, parts: Sequence[Tensor]) -> Weight:
        """Rows as a small table `[U, C]`."""
        views = [part.view(rows) for part, rows in zip(self.parts, parts, strict=True)]
        if self._format is None:
            return views[0]
        return QuantizedTensor(views[0], views[1], self._format)


def _close(pool: ThreadPoolExecutor, files: list[int]) -> None:
    pool.shutdown(wait=True, cancel_futures=True)
    for file in files:
        os.close(file)


class TableStore:
    """The tables of a folder as a `model.engram.TableSource`. Needs the native kernels.

    For use from one thread; reads go on in a few of its own.
    """

    def __init__(self, sources: Sequence[Source], threads: int = THREADS) -> None:
        self._pool = ThreadPoolExecutor(threads, "dsv4-tables")
        self._ahead: OrderedDict[tuple[int, bytes], _Ticket] = OrderedDict()
        self._ahead_bytes = 0
        files: list[int] = []
        self._close = weakref.finalize(self, _close, self._pool, files)
        self._tables = [_Table(source, files) for source in sources]

    @classmethod
    def of(cls, plan: Plan, threads: int = THREADS) -> TableStore:
        """The tables of a planned model with an Engram, in the order of its layers."""
        return cls(table_sources(plan), threads)

    def submit(self, number: int, rows_BTR: Tensor) -> _Ticket:
        """Begin to read these rows of table `number`, unless they were read ahead. What failed
        then is tried again."""
        ahead = self._ahead.pop(_key(number, rows_BTR), None)
        if ahead is not None:
            self._ahead_bytes -= ahead.nbytes
            if not ahead.failed:
                return ahead
        return _Ticket(self._tables[number], self._pool, rows_BTR)

    def read_ahead(self, number: int, rows_BTR: Tensor) -> None:
        """Begin to read what is going to be submitted."""
        key = _key(number, rows_BTR)
        if key in self._ahead:
            return
        ticket = self._ahead[key] = _Ticket(self._tables[number], self._pool, rows_BTR)
        self._ahead_bytes += ticket.nbytes
        while self._ahead_bytes > MOST_AHEAD:
            _, oldest = self._ahead.popitem(last=False)
            self._ahead_bytes -= oldest.nbytes

    def close(self) -> None:
        """Stop reading; what is under way is finished."""
        self._ahead.clear()
        self._close()


def table_sources(plan: Plan) -> list[Source]:
    """The tables of a plan, in the order of the layers."""
    return [
        source for source in plan.sources if source.parameter.name.endswith("engram.embed.weight")
    ]


def _key(number: int, rows_BTR: Tensor) -> tuple[int, bytes]:
    return number, rows_BTR.contiguous().numpy().tobytes()
