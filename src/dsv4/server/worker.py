"""One thread owns the model; handlers queue requests and read their events.

The thread takes jobs in order. A job whose reader has gone is dropped, or stops within one
step of the model.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
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
        self._jobs: queue.Queue[Job | None] = queue.Queue(capacity)
        self._current: Job | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="dsv4-worker", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Refuse new jobs, cancel those there are and wait for the thread."""
        self._stopping.set()
        current = self._current
        if current is not None:
            current.cancel()
        while True:
            try:
                job = self._jobs.get_nowait()
            except queue.Empty:
                break
            if job is not None:
                job.put(RequestError("the server is stopping", status=503, code="overloaded"))
                job.put(None)
        self._jobs.put(None)
        self._thread.join()

    @property
    def waiting(self) -> int:
        return self._jobs.qsize()

    @property
    def running(self) -> int:
        return int(self._current is not None)

    def submit(self, job: Job) -> None:
        """Queue a job. Raises RequestError: 429 if the queue is full, 503 when stopping."""
        if self._stopping.is_set():
            raise RequestError("the server is stopping", status=503, code="overloaded")
        try:
            self._jobs.put_nowait(job)
        except queue.Full:
            raise RequestError(
                f"{self._jobs.maxsize} requests are waiting already; try again in {RETRY_AFTER} s",
                status=429,
                code="rate_limit_exceeded",
            ) from None

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            self._current = job
            if not job.is_cancelled():
                self._answer(job)
            self._current = None
            job.put(None)

    def _answer(self, job: Job) -> None:
        try:
            for event in self.engine.answer(job.prepared, cancelled=job.is_cancelled):
                if isinstance(event, Finish) and event.reason == "cancelled":
                    raise RequestError("the server is stopping", status=503, code="overloaded")
                job.put(event)
        except RequestError as error:
            job.put(error)
        except Exception as error:
            logger.exception("a request failed")
            job.put(error)
