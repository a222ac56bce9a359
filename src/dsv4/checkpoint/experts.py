"""Routed experts of a model larger than memory: a bounded cache in front of its files.

One slab of memory holds as many experts as the budget allows; the rest stays on disk and is read
when a layer asks for it, or a little before.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial

import numpy as np
import torch

from dsv4.checkpoint.expert_ranking import HALF_LIFE, Ranking
from dsv4.checkpoint.expert_reads import (
    PAGE,
    Expert,
    Files,
    Key,
    Matrices,
    expert_sources,
    large_pages,
    matrices,
    slot_pages,
    spans,
)
from dsv4.checkpoint.plan import Plan
from dsv4.checkpoint.read_queue import Reading, ReadQueue, pieces
from dsv4.errors import UsageError

THREADS = 4
"""Reads under way at once: with pieces of `read_queue.PIECE` enough for the disk's bandwidth."""


@dataclass(frozen=True, slots=True)
class Stats:
    """What a store did so far, counted in experts.

    `hits`: acquired while in memory or being read; `misses`: acquired before anything was read of
    them; `prefetched`: read ahead of any acquire, at least in part, of which `prefetch_used` were
    acquired before they had to go.

    `bytes_read` from disk; `bytes_cold` of them had to be read: they belong to experts that were
    acquired and not in memory, nor left there by a guess that came to nothing. `seconds_waited`
    over all threads.
    """

    hits: int = 0
    misses: int = 0
    prefetched: int = 0
    prefetch_used: int = 0
    bytes_read: int = 0
    bytes_cold: int = 0
    seconds_waited: float = 0.0


@dataclass(slots=True, eq=False)
class _Entry:
    """An expert that has a slot: with a `reading` until that ends, then with `matrices`, or an
    `error` that says why not.
    """

    key: Key
    slot: int
    pins: int = 0
    reading: Reading | None = None
    matrices: Matrices | None = None
    error: Exception | None = None

    @property
    def begun(self) -> bool:
        return self.reading is None or self.reading.begun


def _abandon(queue: ReadQueue, files: Files) -> None:
    """Stop the threads of a store that nobody can use any more (so no read is under way)."""
    queue.stop()
    files.close()


class ExpertStore:
    """Experts on demand, within a budget of bytes. Safe to use from several threads.

    `acquire` pins experts and has them read, `arrived` hands them out as they come, and `release`
    lets them go. A thread should release before it acquires again, since threads that hold experts
    while they wait for others can block each other for ever.

    All layers share the slots. The expert with the lowest rank goes first (see `Ranking`).
    """

    def __init__(
        self,
        sources: Mapping[Key, Expert],
        budget: int,
        *,
        least: int = 1,
        threads: int = THREADS,
        direct: bool = True,
    ) -> None:
        """`budget`: bytes for all slots; `least`: experts that must fit; `threads` read.

        `direct`: bypass the page cache where possible. Raises UsageError if the budget is too
        small, CheckpointError if a file cannot be opened.
        """
        self._sources = dict(sources)
        self._spans = {key: spans(expert) for key, expert in self._sources.items()}
        self._sizes = {
            key: sum(span.stop - span.start for span in reads) for key, reads in self._spans.items()
        }
        self._slot_bytes = PAGE * max(slot_pages(reads) for reads in self._spans.values())
        self._capacity = min(budget // self._slot_bytes, len(self._sources))
        if self._capacity < min(least, len(self._sources)):
            raise UsageError(
                f"{budget / 2**20:.1f} MiB for experts hold {self._capacity} of them",
                f"give at least {least * self._slot_bytes / 2**20:.1f} MiB: {least} experts of "
                f"{self._slot_bytes / 2**20:.1f} MiB must be in memory at once",
            )
        self._slab = large_pages(self._capacity * self._slot_bytes)
        self._bytes = memoryview(self._slab)
        self._tensor = torch.frombuffer(self._slab, dtype=torch.uint8)
        self._files = Files(
            {s.file for reads in self._spans.values() for s in reads}, direct=direct
        )
        self._queue = ReadQueue(self._files, threads)

        self._changed = threading.Condition(self._queue.lock)
        """Guards all below; notified when an expert has been read and when pins go."""
        self._entries: dict[Key, _Entry] = {}
        # Those read ahead, for a layer that has not acquired anything since.
        self._ahead: dict[Key, _Entry] = {}
        self._free = list(range(self._capacity))
        self._slots: list[_Entry | None] = [None] * self._capacity
        # Per slot: the rank of an expert that may go at once, infinite for any other slot.
        self._loose = np.full(self._capacity, np.inf)
        layers = len({layer for layer, _ in self._sources})
        self._ranking = Ranking(HALF_LIFE * layers)
        self._counts = {f.name: 0 for f in fields(Stats) if f.name != "seconds_waited"}
        self._waited = 0.0
        self._closed = False
        self._abandon = weakref.finalize(self, _abandon, self._queue, self._files)

    @classmethod
    def of(cls, plan: Plan, budget: int, *, threads: int = THREADS) -> ExpertStore:
        """A store for a planned model, with room for a token's experts and as many ahead."""
        least = 2 * plan.config.num_experts_per_tok
        return cls(expert_sources(plan), budget, least=least, threads=threads)

    @property
    def capacity(self) -> int:
        """Experts that fit into the budget."""
        return self._capacity

    @property
    def nbytes(self) -> int:
        """Size of the slab: the memory the store takes once every slot was used."""
        return len(self._slab)

    @property
    def stats(self) -> Stats:
        with self._changed:
            return Stats(**self._counts, seconds_waited=self._waited)

    def acquire(self, layer: int, experts: Sequence[int]) -> dict[int, Matrices]:
        """Pin experts and begin to read those that are not in memory; returns those that are.

        Waits only until there is room for all. Not more than `capacity` different ones. What was
        read ahead for this layer besides them is no longer protected, nor read on.
        """
        keys = list(dict.fromkeys((layer, expert) for expert in experts))
        assert len(keys) <= self._capacity, (len(keys), self._capacity)
        began = time.monotonic()
        with self._changed:
            self._ranking.use(keys)
            self._dismiss_ahead(layer, keys)
            self._claim(keys)
            self._waited += time.monotonic() - began
            return self._there(keys)

    def arrived(self, layer: int, experts: Iterable[int]) -> dict[int, Matrices]:
        """(w1, w3, w2) of those of these acquired experts that are in memory, at least one; waits.

        The tensors are views of the store's memory, right until `release`. Raises CheckpointError
        if one of the experts cannot be read.
        """
        keys = [(layer, expert) for expert in experts]
        began = time.monotonic()
        with self._changed:
            while not (there := self._there(keys)):
                error = next((e.error for k in keys if (e := self._entries[k]).error), None)
                if error is not None:
                    raise error
                self._changed.wait()
            self._waited += time.monotonic() - began
            return there

    def release(self, layer: int, experts: Sequence[int]) -> None:
        """Let go of what one `acquire` with the same arguments pinned."""
        with self._changed:
            for expert in dict.fromkeys(experts):
                self._unpin((layer, expert))
            self._changed.notify_all()

    def prefetch(self, layer: int, experts: Sequence[int]) -> None:
        """Read experts that a layer will acquire soon, as far as there is room, the first first.

        Never waits, and never takes a slot that is pinned or holds what was read ahead and not
        used yet. What is read ahead for a layer stays until that layer's next `prefetch` without
        it, or `acquire`. A failed read is forgotten: acquiring the expert tries again.
        """
        with self._changed:
            if self._closed:
                return
            wanted = list(dict.fromkeys((layer, expert) for expert in experts))
            self._dismiss_ahead(layer, wanted)
            missing = [key for key in wanted if key not in self._entries]
            slots = iter(self._take(len(missing), wanted))
            for key in wanted:
                entry = self._entries.get(key)
                if entry is None:
                    if (slot := next(slots, None)) is not None:
                        self._ahead[key] = self._begin(key, slot, urgent=False)
                elif entry.reading is not None and not entry.pins:
                    self._ahead[key] = entry
                    self._queue.put(entry.reading, urgent=False)

    def groups(self, layer: int, experts: Sequence[int], most: int = 0) -> list[list[int]]:
        """The different ones among `experts` in groups of at most `most`, to acquire in turn.

        Those in memory come first, so that none is evicted before it was used. `most` is half
        the capacity unless given: then the next group can be read ahead while one is in use.
        """
        most = most or max(1, self._capacity // 2)
        different = list(dict.fromkeys(experts))
        with self._changed:
            different.sort(key=lambda expert: (layer, expert) not in self._entries)
        return [different[i : i + most] for i in range(0, len(different), most)]

    def close(self) -> None:
        """Stop reading. Tensors that were handed out stay readable; acquiring more fails."""
        with self._changed:
            self._closed = True
        self._queue.stop()
        self._queue.join()
        with self._changed:
            for entry in self._entries.values():
                if entry.matrices is None:
                    entry.reading, entry.error = None, UsageError("the expert store was closed")
            self._changed.notify_all()
        self._abandon()

    def __enter__(self) -> ExpertStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _claim(self, keys: list[Key]) -> None:
        """Pin an entry for each key, beginning the reads that takes; waits until all have room.

        Nothing is pinned while it waits, so that two calls never wait for each other.
        """
        while True:
            if self._closed:
                raise UsageError("the expert store was closed")
            missing = [key for key in keys if key not in self._entries]
            lacking = len(missing) - self._room(keys)
            if lacking <= 0:
                break
            # Read-ahead gives way, oldest first; what is being read does when that ends.
            unused = [entry for key, entry in self._ahead.items() if key not in keys]
            for entry in unused[:lacking]:
                self._dismiss(entry)
            if len(missing) > self._room(keys):
                self._changed.wait()
        slots = self._take(len(missing), keys)
        for key in keys:
            if key in self._entries:
                self._adopt(self._entries[key])
            else:
                self._begin(key, slots.pop(), urgent=True)
                self._counts["misses"] += 1
                self._counts["bytes_cold"] += self._sizes[key]
            entry = self._entries[key]
            entry.pins += 1
            self._loose[entry.slot] = np.inf

    def _adopt(self, entry: _Entry) -> None:
        """Account for an acquired expert that has a slot; its read may have to hurry up."""
        guessed = self._ahead.pop(entry.key, None) is not None
        if guessed and not entry.begun:
            self._counts["misses"] += 1
        else:
            self._counts["hits"] += 1
            self._counts["prefetched"] += guessed
            self._counts["prefetch_used"] += guessed
        if guessed or (entry.reading is not None and not entry.pins):
            self._counts["bytes_cold"] += self._sizes[entry.key]
        if entry.reading is not None:
            self._queue.put(entry.reading, urgent=True)

    def _begin(self, key: Key, slot: int, *, urgent: bool) -> _Entry:
        """Give an expert a slot and queue its read."""
        entry = _Entry(key, slot)
        self._entries[key] = self._slots[slot] = entry
        start = slot * self._slot_bytes
        entry.reading = Reading(
            pieces(self._spans[key]),
            self._bytes[start : start + self._slot_bytes],
            partial(self._ended, entry),
        )
        self._queue.put(entry.reading, urgent=urgent)
        return entry

    def _ended(self, entry: _Entry) -> None:
        """Nothing more is read of an entry; runs in a reading thread."""
        reading, entry.reading = entry.reading, None
        assert reading is not None
        self._counts["bytes_read"] += reading.got
        entry.error = reading.error
        if not reading.left and entry.error is None:
            start = entry.slot * self._slot_bytes
            slot = self._tensor[start : start + self._slot_bytes]
            try:
                entry.matrices = matrices(self._sources[entry.key], self._spans[entry.key], slot)
            except Exception as caught:  # it belongs to the thread that waits
                entry.error = caught
        self._loosen(entry)
        self._changed.notify_all()

    def _dismiss_ahead(self, layer: int, keep: list[Key]) -> None:
        """Dismiss what was read ahead for a layer, but none of `keep`."""
        stale = [key for key in self._ahead if key[0] == layer and key not in keep]
        for key in stale:
            self._dismiss(self._ahead[key])

    def _dismiss(self, entry: _Entry) -> None:
        """Stop protecting what was read ahead, and reading it; what is incomplete is forgotten."""
        del self._ahead[entry.key]
        self._counts["prefetched"] += entry.begun
        reading = entry.reading
        if reading is not None and self._queue.withdraw(reading):
            self._counts["bytes_read"] += reading.got
            self._drop(entry)
        else:
            self._loosen(entry)
        # Another thread may have waited for just this slot, and this one may wait next.
        self._changed.notify_all()

    def _take(self, count: int, keep: list[Key]) -> list[int]:
        """Slots for up to `count` experts, evicting the lowest ranks, but none of `keep`."""
        short = count - len(self._free)
        if short > 0:
            ranks = self._loose.copy()
            ranks[[self._entries[key].slot for key in keep if key in self._entries]] = np.inf
            for slot in np.argsort(ranks, kind="stable")[:short]:
                victim = self._slots[slot]
                if ranks[slot] < np.inf and victim is not None:
                    self._drop(victim)
        return [self._free.pop() for _ in range(min(count, len(self._free)))]

    def _room(self, keep: list[Key]) -> int:
        """Slots that `_take` could give."""
        kept = sum(
            self._loose[self._entries[key].slot] < np.inf for key in keep if key in self._entries
        )
        return len(self._free) + int((self._loose < np.inf).sum()) - kept

    def _drop(self, entry: _Entry) -> None:
        """Take an entry's slot away."""
        del self._entries[entry.key]
        self._ahead.pop(entry.key, None)
        self._slots[entry.slot] = None
        self._loose[entry.slot] = np.inf
        self._free.append(entry.slot)

    def _loosen(self, entry: _Entry) -> None:
        """Let an entry be evicted from now on if nothing speaks against it."""
        if entry.pins or entry.reading is not None:
            return
        if entry.matrices is None:
            self._drop(entry)  # failed, or given up half read
        elif entry.key not in self._ahead:
            self._loose[entry.slot] = self._ranking[entry.key]

    def _unpin(self, key: Key) -> None:
        entry = self._entries[key]
        assert entry.pins > 0, key
        entry.pins -= 1
        self._loosen(entry)

    def _there(self, keys: Iterable[Key]) -> dict[int, Matrices]:
        """Those of some acquired experts that are in memory."""
        found = ((key[1], self._entries[key].matrices) for key in keys)
        return {expert: matrices for expert, matrices in found if matrices is not None}
