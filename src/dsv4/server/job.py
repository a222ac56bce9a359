"""One request on its way through the engine, as its handler sees it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass

from dsv4.chat.answer import Answer, Finish, Shown, Usage
from dsv4.chat.engine import Engine
from dsv4.chat.prepared import Prepared
from dsv4.encoding.control import THINK_CLOSE
from dsv4.engine import request as ids_engine
from dsv4.errors import RequestError
from dsv4.server.metrics import Metrics, Stopwatch

MOST_UNREAD = 4096
"""Events of the engine that may wait for a slow reader; its request is then given up."""


@dataclass(frozen=True, slots=True)
class Begun:
    """The prompt is being read; `cached` tokens of it were known."""

    cached: int


Ended = Callable[["Job", Usage], None]


class Job:
    """A started request. Belongs to the event loop it was made in.

    `ended` is called once, with what was used, when nobody needs the job any more. Raises what
    `Engine.start` raises.
    """

    def __init__(self, engine: Engine, prepared: Prepared, metrics: Metrics, ended: Ended) -> None:
        self.prepared = prepared
        self._answer = Answer(prepared, engine.model.tokenizer)
        self._metrics = metrics
        self._watch = Stopwatch(metrics)
        self._ended = ended
        self._over = False
        # Of what was computed, also if nobody reads it.
        self._tokens = self._reasoning = self._cached = 0
        self._thinking = prepared.opens_thinking
        self._think_close = engine.model.tokenizer.control_id(THINK_CLOSE)
        self._finish: Finish | None = None
        self._loop = asyncio.get_running_loop()
        self._arrived: asyncio.Queue[ids_engine.Event | Exception] = asyncio.Queue()
        self._ticket = engine.start(prepared, self._deliver)

    def close(self) -> None:
        """Stop within a step, if it still runs, and count what was used."""
        self._ticket.cancel()
        if self._over:
            return
        self._over = True
        self._watch.end()
        reason, usage = "cancelled", Usage(0, 0, 0)
        if self._finish is not None:
            reason, usage = self._finish.reason, self._finish.usage
        elif self._watch.begun:
            usage = Usage(len(self.prepared.ids), self._tokens, self._reasoning, self._cached)
        self._metrics.ended(reason, usage, self._answer.malformed)
        self._ended(self, usage)

    @property
    def waiting(self) -> int:
        """Tokens of its prompt, until the engine begins with it."""
        return 0 if self._over or self._watch.begun else len(self.prepared.ids)

    def fail(self, error: Exception) -> None:
        """Stop within a step; whoever reads gets this error."""
        self._ticket.cancel()
        self._arrived.put_nowait(error)

    def _deliver(self, item: ids_engine.Event | Exception) -> None:
        """Called in the engine's thread."""
        try:
            self._loop.call_soon_threadsafe(self._put, item)
        except RuntimeError:  # the server is gone
            self._ticket.cancel()

    def _put(self, item: ids_engine.Event | Exception) -> None:
        if not isinstance(item, Exception):
            self._watch.see(item)
            self._count(item)
        if self._arrived.qsize() == MOST_UNREAD:
            self._ticket.cancel()
            item = RequestError("the client reads too slowly", status=408, code="slow_reader")
        if self._arrived.qsize() <= MOST_UNREAD:
            self._arrived.put_nowait(item)

    def _count(self, item: ids_engine.Event) -> None:
        if isinstance(item, ids_engine.Token):
            self._tokens += 1
            self._reasoning += self._thinking
            self._thinking = self._thinking and item.id != self._think_close
        else:
            self._cached = item.cached

    async def events(self, idle: float, patience: float) -> AsyncGenerator[Shown | Begun | None]:
        """The events as they come, first of all Begun; None whenever `idle` seconds
        passed without one.

        Raises what the engine met while computing them, and RequestError (503) if it does not
        begin within `patience` seconds.
        """
        deadline, begun = time.monotonic() + patience, False
        try:
            while not self._answer.over:
                try:
                    item = await asyncio.wait_for(self._arrived.get(), idle)
                except TimeoutError:
                    if not self._watch.begun and time.monotonic() > deadline:
                        raise RequestError(
                            f"the model had no time for this request within {patience:g} s",
                            status=503,
                            code="queue_timeout",
                        ) from None
                    yield None
                    continue
                if not begun and not isinstance(item, Exception):
                    begun = True
                    yield Begun(item.cached if not isinstance(item, ids_engine.Token) else 0)
                for piece in self._read(item):
                    yield piece
        finally:
            self.close()

    def _read(self, item: ids_engine.Event | Exception) -> list[Shown]:
        if isinstance(item, Exception):
            raise item
        if isinstance(item, ids_engine.Finish) and item.reason == "cancelled":
            raise RequestError("the request was cancelled", status=503, code="overloaded")
        pieces: list[Shown] = [*self._answer.feed(item)]
        if pieces and isinstance(pieces[-1], Finish):
            self._finish = pieces[-1]
        return pieces
