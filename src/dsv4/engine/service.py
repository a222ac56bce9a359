"""The thread that owns a model: requests come from any thread, events go back from this one."""

from __future__ import annotations

import logging
import threading
from collections import deque
from typing import Any

from dsv4.engine.core import Core
from dsv4.engine.request import Generation
from dsv4.engine.sequence import Deliver, Sequence
from dsv4.errors import RequestError

logger = logging.getLogger("dsv4.engine")

MOST_WAITING = 1024
"""Requests that may wait for a place."""

RETRY_AFTER = 5
"""Seconds a refused client is told to wait."""

CHECK_AFTER = 2.0
"""Seconds without work after which the engine looks for what nobody holds any more."""


class Service:
    """Runs a `Core` on a thread of its own; at most `capacity` requests may wait."""

    def __init__(self, core: Core, *, capacity: int = MOST_WAITING) -> None:
        self.core = core
        self._capacity = capacity
        self._arrived: deque[tuple[Generation, Deliver, Ticket]] = deque()
        self._changed = threading.Condition()
        self._stopping = False
        self._resting = False
        """Whether the thread waits for work: only then are the books in order."""
        self._thread = threading.Thread(target=self._run, name="dsv4-engine", daemon=True)
        self._thread.start()

    @property
    def running(self) -> int:
        """Requests that are computed."""
        return len(self.core.running)

    @property
    def waiting(self) -> int:
        """Requests that wait to be."""
        return len(self._arrived) + len(self.core.queue)

    def submit(self, generation: Generation, deliver: Deliver) -> Ticket:
        """Queue a request; `deliver` gets its events, the last of which is a Finish or an
        exception.

        Raises UsageError for a request this model cannot take, RequestError with status 429 when
        too many wait and 503 when stopping.
        """
        self.core.check(generation)
        ticket = Ticket()
        with self._changed:
            if self._stopping:
                raise stopping()
            if self.waiting >= self._capacity:
                raise RequestError(
                    f"{self._capacity} requests are waiting already; try again in {RETRY_AFTER} s",
                    status=429,
                    code="rate_limit_exceeded",
                )
            self._arrived.append((generation, deliver, ticket))
            self._changed.notify()
        return ticket

    def integrity(self) -> dict[str, Any]:
        """What the engine holds, and, when it is idle, `problems`: what is held by nobody."""
        with self._changed:
            core, cache = self.core, self.core.memory.cache
            idle = self._resting and not self._arrived
            return {
                "idle": idle,
                "running": self.running,
                "waiting": self.waiting,
                "cached_blocks": len(cache),
                "cached_bytes": cache.bytes,
                "pins": cache.pins if idle else None,
                "problems": core.check_integrity() if idle else [],
            }

    def close(self) -> None:
        """Refuse new requests, end those there are with an error and wait for the thread."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        if threading.current_thread() is not self._thread:  # as when the last reference went there
            self._thread.join()

    def _take(self) -> bool:
        """Hand what arrived to the core, waiting if there is nothing to do; False to stop."""
        with self._changed:
            self._resting = True
            if not self._changed.wait_for(self._has_work, CHECK_AFTER):
                self._check()
                self._changed.wait_for(self._has_work)
            self._resting = False
            while self._arrived:
                generation, deliver, ticket = self._arrived.popleft()
                ticket.follow(self.core.add(generation, deliver))
            return not self._stopping

    def _has_work(self) -> bool:
        return bool(self._arrived) or self._stopping or self.core.busy

    def _check(self) -> None:
        """Once after work, when nothing is to do: nothing must be held by nobody."""
        for problem in self.core.check_integrity():
            logger.error("the engine's books do not balance: %s", problem)

    def _run(self) -> None:
        while self._take():
            try:
                self.core.step()
            except Exception as error:
                logger.exception("a step of the engine failed")
                self.core.fail(error)
        self.core.fail(stopping())
        self.core.memory.close()
        with self._changed:
            self._resting = True


class Ticket:
    """What a caller holds of its request."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._cancelled = False
        self._sequence: Sequence | None = None

    def cancel(self) -> None:
        """Stop the request within a step; it ends with Finish("cancelled"). Any thread may."""
        with self._lock:
            self._cancelled = True
            if self._sequence is not None:
                self._sequence.cancel()

    def follow(self, sequence: Sequence) -> None:
        """The request became this sequence."""
        with self._lock:
            self._sequence = sequence
            if self._cancelled:
                sequence.cancel()


def stopping() -> RequestError:
    return RequestError("the server is stopping", status=503, code="overloaded")
