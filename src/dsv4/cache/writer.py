"""A thread that writes records one after another, so that nobody waits for the disk."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence

from dsv4.cache.record import Name

Parts = Sequence[memoryview]


class Writer:
    """Carries out `write(name, parts)` and `touch(name, time)` in the order they were asked for.

    Both are called on the writer's thread and must not raise. `bound`: bytes that may wait.
    """

    def __init__(
        self,
        write: Callable[[Name, Parts], None],
        touch: Callable[[Name, int], None],
        bound: int,
    ) -> None:
        self._write = write
        self._touch = touch
        self._bound = bound
        self._changed = threading.Condition()
        self._jobs: deque[tuple[Name, Parts | int]] = deque()
        self._waiting: dict[Name, Parts] = {}
        self._bytes = 0
        self._asked = 0
        self._done = 0
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="dsv4-kv-writer", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def put(self, name: Name, parts: Parts) -> bool:
        """Queue a record. False if too much waits already, or if nothing is written any more."""
        size = sum(len(part) for part in parts)
        with self._changed:
            if name in self._waiting:
                return True
            if self._closed or self._bytes + size > self._bound:
                return False
            self._waiting[name] = parts
            self._bytes += size
            self._add(name, parts)
        return True

    def touch(self, name: Name, time: int) -> None:
        """Queue a new time for a record that was written."""
        with self._changed:
            if not self._closed:
                self._add(name, time)

    def waiting(self, name: Name) -> Parts | None:
        """The parts of a record that is queued or being written."""
        return self._waiting.get(name)

    def flush(self, timeout: float | None) -> bool:
        """Wait until all that was asked for before is done. False if that took too long."""
        with self._changed:
            asked = self._asked
            return self._changed.wait_for(lambda: self._done >= asked, timeout)

    def close(self, timeout: float | None) -> bool:
        """Write what waits, as far as the time allows. False if the thread is still at it."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self.flush(timeout)
        with self._changed:
            self._done += len(self._jobs)
            self._jobs.clear()
            self._waiting.clear()
            self._changed.notify_all()
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _add(self, name: Name, job: Parts | int) -> None:
        self._jobs.append((name, job))
        self._asked += 1
        self._changed.notify_all()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._jobs or self._closed)
                if not self._jobs:
                    return
                name, job = self._jobs.popleft()
            if isinstance(job, int):
                self._touch(name, job)
            else:
                self._write(name, job)
            with self._changed:
                if not isinstance(job, int):
                    self._waiting.pop(name, None)
                    self._bytes -= sum(len(part) for part in job)
                self._done += 1
                self._changed.notify_all()
            del job  # its memory may go while this thread waits
