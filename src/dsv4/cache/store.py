"""Records on disk that outlive the process: what was computed for prefixes of ids.

A store is a folder (`dsv4.cache.folder` has its layout) with an index of it in memory. Records are
immutable. They are written on a thread of the store's own and read on the caller's; whatever fails
there, a caller gets None and computes again. One process at a time has a folder.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

from dsv4.cache import folder as layout
from dsv4.cache import record
from dsv4.cache.record import KEY_BYTES, Buffer, DamagedError, Kind, Name
from dsv4.cache.writer import Parts, Writer
from dsv4.errors import UsageError

__all__ = ["Buffer", "Kind", "Stats", "Store"]

logger = logging.getLogger("dsv4.cache")

_DISK_BLOCK = 4096
_MINUTE = 60 * 10**9
"""Nanoseconds between two writes of the same record's time of use."""


@dataclass(frozen=True, slots=True)
class Stats:
    """What a store holds and what happened since it was opened.

    `bytes` counts whole disk blocks, and the records of other bindings; `records` only its own.
    `dropped`: records that were not written, because too much waited or the disk refused.
    """

    bytes: int
    records: int
    hits: int
    misses: int
    damaged: int
    dropped: int
    evicted: int


@dataclass(slots=True, eq=False)
class _Entry:
    """A record on disk: bytes of its file, and its time of use as the file has it."""

    size: int
    used: int


class Store:
    """The records of one binding, least recently used ones removed beyond `capacity` bytes.

    `binding` is a digest of all that records depend on (weights, configuration, numerics). Records
    of other bindings are never returned; they count toward the capacity and are removed first.
    `backlog`: bytes that may wait for the writer. `readers`: threads of `get_many`.

    A folder that cannot be written to is read, and the log says so once. Raises UsageError if
    another process has the folder, or if there is none and none can be made.
    """

    def __init__(
        self,
        folder: Path,
        binding: bytes,
        capacity: int,
        *,
        backlog: int = 256 * 2**20,
        readers: int = 4,
    ) -> None:
        assert 0 < len(binding) <= 64 and capacity >= 0
        self._folder = os.fspath(folder)
        self._binding = binding
        self._capacity = capacity
        self._lock = threading.Lock()
        self._entries: OrderedDict[Name, _Entry] = OrderedDict()  # the oldest first
        self._foreign: list[tuple[int, str, int]] = []  # used, path, size: the oldest last
        self._bytes = 0
        self._hits = self._misses = self._damaged = self._dropped = self._evicted = 0
        self._writable = True
        self._held = self._take()
        self._look()
        self._writer = Writer(self._write, self._set_time, backlog)
        self._readers = ThreadPoolExecutor(readers, "dsv4-kv-reader")
        try:
            if self._writable:
                self._make_room(0)
        except OSError as error:
            self._stop_writing(error)
        self._writer.start()

    def contains(self, kind: Kind, key: bytes) -> bool:
        """Whether a record is there, or about to be written. Does not touch the disk."""
        name = Name(kind, key)
        return self._writer.waiting(name) is not None or name in self._entries

    def put(self, kind: Kind, key: bytes, parts: Sequence[Buffer]) -> None:
        """Have the parts, joined, written as a record; they must not change from now on.

        Returns at once. A record that is there already counts as used instead.
        """
        assert len(key) == KEY_BYTES
        name = Name(kind, key)
        if name in self._entries:
            self.touch(kind, [key])
            return
        flat = [memoryview(part).cast("B") for part in parts if memoryview(part).nbytes]
        fits = _on_disk(record.file_bytes(flat)) <= self._capacity
        if not (self._writable and fits and self._writer.put(name, flat)):
            with self._lock:
                self._dropped += 1

    def get(self, kind: Kind, key: bytes) -> bytearray | None:
        """A record's payload, the caller's to keep. None if it is absent or was damaged."""
        payload = self._read(Name(kind, key))
        if payload is not None:
            self.touch(kind, [key])
        return payload

    def get_many(self, kind: Kind, keys: Sequence[bytes]) -> list[bytearray]:
        """The payloads of a chain up to the first that is absent, read in parallel."""
        known = [Name(kind, key) for key in takewhile(lambda k: self.contains(kind, k), keys)]
        found = takewhile(lambda p: p is not None, self._readers.map(self._read, known))
        payloads = [payload for payload in found if payload is not None]
        if len(known) < len(keys):
            with self._lock:
                self._misses += 1
        self.touch(kind, keys[: len(payloads)])
        return payloads

    def touch(self, kind: Kind, keys: Sequence[bytes]) -> None:
        """Count the records of a chain as used. The end of a chain is removed before its start,
        without which it is worth nothing."""
        now = time.time_ns()
        with self._lock:
            for i, key in enumerate(reversed(keys)):
                name = Name(kind, key)
                entry = self._entries.get(name)
                if entry is None:
                    continue
                self._entries.move_to_end(name)
                if abs(now - entry.used) >= _MINUTE:
                    entry.used = now + i
                    self._writer.touch(name, entry.used)

    def flush(self, timeout: float | None = None) -> bool:
        """Wait until what was put before is written. False if that took longer than `timeout`."""
        return self._writer.flush(timeout)

    def close(self, timeout: float | None = 10.0) -> None:
        """Write what waits, as far as `timeout` seconds allow, and let go of the folder.

        A closed store is empty and drops what is put.
        """
        ended = self._writer.close(timeout)
        self._readers.shutdown()
        with self._lock:
            self._writable = False
            self._entries.clear()
            self._bytes = 0
        if self._held is not None and ended:  # else the process holds it to its end
            os.close(self._held)
            self._held = None

    @property
    def stats(self) -> Stats:
        with self._lock:
            return Stats(
                self._bytes,
                len(self._entries),
                self._hits,
                self._misses,
                self._damaged,
                self._dropped,
                self._evicted,
            )

    def _take(self) -> int | None:
        """Make the folder and lock it; None, having warned, if it can only be read."""
        try:
            os.makedirs(self._folder, mode=0o700, exist_ok=True)
        except OSError as error:
            raise UsageError(
                f"no cache folder can be made at {self._folder}: {error.strerror or error}",
                "choose a folder that you may write to",
            ) from error
        held = None
        try:
            held = layout.lock(self._folder)
            layout.prepare(self._folder, self._binding.hex())
        except OSError as error:
            self._stop_writing(error)
        return held

    def _look(self) -> None:
        """Index what is there."""
        own: list[layout.Found] = []
        try:
            for found in layout.scan(self._folder, remove_partial=self._writable):
                self._bytes += _on_disk(found.size)
                if found.binding == self._binding.hex():
                    own.append(found)
                else:
                    self._foreign.append((found.used, found.path, found.size))
        except OSError as error:
            self._stop_writing(error)
        own.sort(key=lambda found: found.used)
        self._foreign.sort(reverse=True)
        self._entries.update((found.name, _Entry(found.size, found.used)) for found in own)

    def _path(self, name: Name) -> str:
        return layout.record_path(self._folder, self._binding.hex(), name)

    def _read(self, name: Name) -> bytearray | None:
        parts = self._writer.waiting(name)  # looked at first: it has an entry before it leaves
        entry = self._entries.get(name)
        payload: bytearray | None = None
        damaged = False
        if parts is not None:
            payload = bytearray().join(parts)
        elif entry is not None:
            try:
                payload = record.read(self._path(name), entry.size, self._binding, name)
            except FileNotFoundError:
                self._forget(name, entry, remove=False)
            except DamagedError:
                damaged = self._forget(name, entry, remove=True)
            except OSError:  # too many open files, say: the record may be good
                pass
        with self._lock:
            self._hits += payload is not None
            self._misses += payload is None
            self._damaged += damaged
        return payload

    def _forget(self, name: Name, entry: _Entry, *, remove: bool) -> bool:
        """Drop an entry, and its file, unless another has taken its place meanwhile."""
        with self._lock:
            if self._entries.get(name) is not entry:
                return False
            del self._entries[name]
            self._bytes -= _on_disk(entry.size)
            if remove and self._writable:
                with suppress(OSError):
                    os.unlink(self._path(name))
        return True

    def _write(self, name: Name, parts: Parts) -> None:
        """On the writer's thread: make room for a record and write it."""
        if name in self._entries:
            return
        size = record.file_bytes(parts)
        now = time.time_ns()
        try:
            if self._writable:
                self._make_room(_on_disk(size))
                record.write(self._path(name), self._binding, name, parts, modified=now)
        except Exception as error:  # whatever it is, requests go on without the disk
            self._stop_writing(error)
        with self._lock:
            if self._writable:
                self._entries[name] = _Entry(size, now)
                self._bytes += _on_disk(size)
            else:
                self._dropped += 1

    def _set_time(self, name: Name, used: int) -> None:
        """On the writer's thread: note on disk when a record was used."""
        if self._writable:
            with suppress(OSError):  # it may have gone
                os.utime(self._path(name), ns=(used, used))

    def _make_room(self, size: int) -> None:
        """Remove records until `size` bytes more fit; readers are held up for none of it."""
        while True:
            with self._lock:
                if self._bytes + size <= self._capacity:
                    return
                foreign = bool(self._foreign)
                if foreign:
                    _, path, gone = self._foreign.pop()
                else:
                    name, entry = self._entries.popitem(last=False)
                    path, gone = self._path(name), entry.size
                self._bytes -= _on_disk(gone)
                self._evicted += 1
            with suppress(FileNotFoundError):
                os.unlink(path)
            if foreign:
                layout.remove_empty(path)

    def _stop_writing(self, error: Exception) -> None:
        """Give up on writing for good; what is there can still be read."""
        with self._lock:
            first, self._writable = self._writable, False
        if first:
            logger.warning("nothing more is cached in %s: %s", self._folder, error)


def _on_disk(size: int) -> int:
    """Bytes that a file of `size` takes from the disk."""
    return -(-size // _DISK_BLOCK) * _DISK_BLOCK
