"""One thread owns the model; handlers queue requests and read their events.

The thread takes jobs in order. A job whose reader has gone is dropped, or stops within one
step of the model.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import AsyncIterator

from dsv4.chat.engine import Engine, Finish, Prepared
from dsv4.encoding.events import Event
from dsv4.errors import RequestError

logger = logging.getLogger("dsv4.server")

RETRY_AFTER = 5
"""Seconds a refused client is told to wait."""


class Job:
    """One request on its way through the worker.

    The worker's thread fills `_events`; the handler reads `events` and may `cancel`.
    """

    def __init__(self, prepared: Prepared) -> None:
        self.prepared = prepared
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[Event | Finish | Exception | None] = asyncio.Queue()
        self._cancelled = threading.Event()

    def cancel(self) -> None:
        """Stop this job within a step; what is still read may end without a Finish."""
        self._cancelled.set()

    def is_cancelled(self) -> bool:
        return self._cancelled.is_set()

    def put(self, item: Event | Finish | Exception | None) -> None:
        """Called by the worker's thread; None ends the events."""
        try:
            self._loop.call_soon_threadsafe(self._events.put_nowait, item)
        except RuntimeError:  # the server is gone
            self.cancel()

    async def events(self, idle: float) -> AsyncIterator[Event | Finish | None]:
        """The events as they come; None whenever `idle` seconds passed without one.

        Raises what the worker met while computing them.
        """
        while True:
            try:
                item = await asyncio.wait_for(self._events.get(), idle)
            except TimeoutError:
                yield None
                continue
            if item is None:
                return
            if isinstance(item, Exception):
                raise item
            yield item


class Worker:
    """Runs jobs one after the other on its own thread; at most `capacity` may wait."""

    def __init__(self, engine: Engine, capacity: int) -> None:
        self.engine = engine
        self._capacity = capacity
        self._jobs: deque[Job] = deque()
        self._changed = threading.Condition()  # guards the three fields around it
        self._current: Job | None = None
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="dsv4-worker", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Refuse new jobs, end those there are with an error and wait for the thread."""
        with self._changed:
            self._stopping = True
            if self._current is not None:
                self._current.cancel()
            for job in self._jobs:
                job.put(_stopping())
                job.put(None)
            self._jobs.clear()
            self._changed.notify()
        self._thread.join()

    @property
    def waiting(self) -> int:
        return len(self._jobs)

    @property
    def running(self) -> int:
        return int(self._current is not None)

    def submit(self, job: Job) -> None:
        """Queue a job. Raises RequestError: 429 if the queue is full, 503 when stopping."""
        with self._changed:
            if self._stopping:
                raise _stopping()
            self._drop_cancelled()
            if len(self._jobs) >= self._capacity:
                raise RequestError(
                    f"{self._capacity} requests are waiting already; try again in {RETRY_AFTER} s",
                    status=429,
                    code="rate_limit_exceeded",
                )
            self._jobs.append(job)
            self._changed.notify()

    def _drop_cancelled(self) -> None:
        for job in [job for job in self._jobs if job.is_cancelled()]:
            self._jobs.remove(job)
            job.put(None)

    def _next(self) -> Job | None:
        """Wait for a job and make it the current one; None when stopping."""
        with self._changed:
            self._current = None
            self._changed.wait_for(lambda: self._jobs or self._stopping)
            self._drop_cancelled()
            if self._jobs:
                self._current = self._jobs.popleft()
            return self._current

    def _run(self) -> None:
        while not self._stopping:
            job = self._next()
            if job is not None:
                self._answer(job)
                job.put(None)

    def _answer(self, job: Job) -> None:
        try:
            for event in self.engine.answer(job.prepared, cancelled=job.is_cancelled):
                if isinstance(event, Finish) and event.reason == "cancelled":
                    raise _stopping()  # a client that left reads this no more
                job.put(event)
        except RequestError as error:
            job.put(error)
        except Exception as error:
            logger.exception("a request failed")
            job.put(error)


def _stopping() -> RequestError:
    return RequestError("the server is stopping", status=503, code="overloaded")
