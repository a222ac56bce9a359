"""Reading routed experts from their files: where each lies, and how its bytes get into memory.

A slot is a page-aligned piece of memory that takes one expert. Tensors that follow each other in
a file are read together; every read starts at a page of the slot and keeps the file's own
position within the page, so that the kernel can move bytes from the disk straight into the slot.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from dsv4.checkpoint.folder import DTYPES, Stored
from dsv4.checkpoint.plan import Plan, Source
from dsv4.errors import CheckpointError
from dsv4.numerics.quantized import QuantizedTensor, Weight

PAGE = 4096
"""Alignment of direct reads, in the file and in memory: enough for every common disk."""

Key = tuple[int, int]
"""(layer, expert); the MTP block counts as the layer after the last."""

Matrices = tuple[Weight, Weight, Weight]
"""(w1, w3, w2) of one expert: gate, up and down."""


@dataclass(frozen=True, slots=True)
class Expert:
    """Where the three matrices of a routed expert lie."""

    w1: Source
    w3: Source
    w2: Source

    @property
    def sources(self) -> tuple[Source, Source, Source]:
        return self.w1, self.w3, self.w2


def expert_sources(plan: Plan) -> dict[Key, Expert]:
    """Every routed expert of a plan, the MTP block's too."""
    found: dict[Key, dict[str, Source]] = {}
    for source in plan.sources:
        if source.parameter.expert:
            stack, index, *_, expert, matrix, _ = source.parameter.name.split(".")
            layer = int(index) + (plan.config.num_hidden_layers if stack == "mtp" else 0)
            found.setdefault((layer, int(expert)), {})[matrix] = source
    return {key: Expert(**matrices) for key, matrices in found.items()}


@dataclass(frozen=True, slots=True)
class Span:
    """Bytes [start, stop) of a file, which go to the page `page` of a slot."""

    file: Path
    start: int
    stop: int
    page: int

    @property
    def place(self) -> int:
        """Position in the slot of the first byte."""
        return self.page * PAGE + self.start % PAGE

    @property
    def pages(self) -> int:
        """Pages of the file that the bytes touch."""
        return -(-self.stop // PAGE) - self.start // PAGE


def spans(expert: Expert) -> tuple[Span, ...]:
    """The reads that fetch an expert: tensors less than a page apart share one."""
    parts = (part for source in expert.sources for part in (source.data, source.scale) if part)
    found: list[Span] = []
    for part in sorted(parts, key=lambda part: (part.file, part.offset)):
        start, stop = part.offset, part.offset + part.nbytes
        last = found[-1] if found else None
        if last is not None and last.file == part.file and start - last.stop < PAGE:
            found[-1] = Span(last.file, last.start, max(stop, last.stop), last.page)
        else:
            page = last.page + last.pages if last is not None else 0
            found.append(Span(part.file, start, stop, page))
    return tuple(found)


def slot_pages(reads: Sequence[Span]) -> int:
    """Pages that the slot of an expert with these reads needs."""
    return reads[-1].page + reads[-1].pages


def matrices(expert: Expert, reads: Sequence[Span], slot: Tensor) -> Matrices:
    """The matrices of an expert as views of its filled slot (uint8 [bytes]).

    A tensor that does not start at a multiple of its element size is copied; `make_plan` limits
    how much of that there can be.
    """

    def view(stored: Stored) -> Tensor:
        read = next(
            span for span in reads if span.file == stored.file and stored.offset < span.stop
        )
        start = read.place + stored.offset - read.start
        raw = slot[start : start + stored.nbytes]
        if not stored.aligned:
            raw = raw.clone()
        return raw.view(DTYPES[stored.dtype]).view(stored.shape)

    def weight(source: Source) -> Weight:
        data = view(source.data)
        if source.format is None:
            return data.to(torch.float32) if source.parameter.dtype == torch.float32 else data
        assert source.scale is not None
        return QuantizedTensor(data, view(source.scale), source.format)

    return weight(expert.w1), weight(expert.w3), weight(expert.w2)


def large_pages(size: int) -> mmap.mmap:
    """Memory for slots, in pages of 2 MiB where the system has some.

    A direct read pins every page that it writes to, and hands the disk a list of them.
    """
    if not hasattr(mmap, "MADV_HUGEPAGE"):
        return mmap.mmap(-1, size)
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with suppress(OSError):  # a kernel without them
        memory.madvise(mmap.MADV_HUGEPAGE)
    # A child would share private pages until one of both writes: reads might miss ours.
    memory.madvise(mmap.MADV_DONTFORK)
    return memory


class Files:
    """Open weight files for positioned reads that leave nothing in the page cache.

    Reads bypass the cache where the file system allows it. Measured on a virtual disk
    (`benchmarks/expert_cache.py disk`), that takes a sixth of the processor time of a cached read
    (0.06 against 0.38 s per GB), and with `large_pages` a fortieth (0.01). Elsewhere the
    cache is told to forget what was read.
    """

    def __init__(self, paths: Iterable[Path], *, direct: bool = True) -> None:
        self._cached: dict[Path, int] = {}
        self._direct: dict[Path, int] = {}
        try:
            for path in paths:
                self._cached[path] = os.open(path, os.O_RDONLY)
                if direct and hasattr(os, "O_DIRECT"):
                    self._open_direct(path)
        except OSError as error:
            self.close()
            raise CheckpointError(f"{path.name} cannot be opened: {error.strerror}") from error

    def _open_direct(self, path: Path) -> None:
        try:
            self._direct[path] = os.open(path, os.O_RDONLY | os.O_DIRECT)
        except OSError:
            return  # a file system without direct reads, such as some tmpfs

    def read(self, span: Span, slot: memoryview) -> int:
        """Fill the span's part of a slot; the number of bytes the disk gave.

        Raises CheckpointError if the file ends early or cannot be read.
        """
        try:
            if span.file in self._direct:
                try:
                    return self._read_direct(span, slot)
                except OSError:
                    # Opened but not served; if the disk is at fault the next read says so.
                    pass
            return self._read_cached(span, slot)
        except OSError as error:
            raise CheckpointError(
                f"{span.file.name} cannot be read: {error.strerror or error}"
            ) from error

    def _read_direct(self, span: Span, slot: memoryview) -> int:
        start = span.start - span.start % PAGE
        into = slot[span.page * PAGE : (span.page + span.pages) * PAGE]
        return _fill(span, self._direct[span.file], into, start, span.stop - start)

    def _read_cached(self, span: Span, slot: memoryview) -> int:
        descriptor, size = self._cached[span.file], span.stop - span.start
        got = _fill(span, descriptor, slot[span.place : span.place + size], span.start, size)
        if hasattr(os, "posix_fadvise"):
            # Whole pages only are dropped, so the pages at both ends are named too.
            first = span.start - span.start % PAGE
            os.posix_fadvise(descriptor, first, span.pages * PAGE, os.POSIX_FADV_DONTNEED)
        return got

    def close(self) -> None:
        """Close every file. No read may be under way."""
        for descriptor in (*self._cached.values(), *self._direct.values()):
            os.close(descriptor)
        self._cached.clear()
        self._direct.clear()


def _fill(span: Span, descriptor: int, into: memoryview, start: int, needed: int) -> int:
    """Read until `needed` bytes are there; more may come, up to the size of `into`."""
    done = 0
    while done < needed:
        got = os.preadv(descriptor, [into[done:]], start + done)
        if not got:
            raise CheckpointError(
                f"{span.file.name} ends at byte {start + done}, before the expert that reaches "
                f"to byte {span.stop}",
                "the file became shorter while it was in use: download or write it again",
            )
        done += got
    return done
