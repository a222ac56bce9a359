"""One request on its way through the engine, as its handler sees it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from dsv4.chat.answer import Answer, Finish, Logprobs
from dsv4.chat.engine import Engine
from dsv4.chat.prepared import Prepared
from dsv4.encoding.events import Event
from dsv4.engine import request as ids_engine
from dsv4.errors import RequestError

MOST_UNREAD = 4096
"""Events of the engine that may wait for a slow reader; its request is then given up."""


class Job:
    """A started request. Belongs to the event loop it was made in.

    Raises what `Engine.start` raises.
    """

    def __init__(self, engine: Engine, prepared: Prepared) -> None:
        self.prepared = prepared
        self._answer = Answer(prepared, engine.model.tokenizer)
        self._loop = asyncio.get_running_loop()
        self._arrived: asyncio.Queue[ids_engine.Event | Exception] = asyncio.Queue()
        self._ticket = engine.start(prepared, self._deliver)

    def cancel(self) -> None:
        """Stop within a step; what is still read ends without a Finish."""
        self._ticket.cancel()

    def _deliver(self, item: ids_engine.Event | Exception) -> None:
        """Called in the engine's thread."""
        try:
            self._loop.call_soon_threadsafe(self._put, item)
        except RuntimeError:  # the server is gone
            self._ticket.cancel()

    def _put(self, item: ids_engine.Event | Exception) -> None:
        if self._arrived.qsize() == MOST_UNREAD:
            self.cancel()
            item = RequestError("the client reads too slowly", status=408, code="slow_reader")
        if self._arrived.qsize() <= MOST_UNREAD:
            self._arrived.put_nowait(item)

    async def events(self, idle: float) -> AsyncIterator[Event | Finish | None]:
        """The events as they come; None whenever `idle` seconds passed without one.

        Raises what the engine met while computing them.
        """
        try:
            while not self._answer.over:
                try:
                    item = await asyncio.wait_for(self._arrived.get(), idle)
                except TimeoutError:
                    yield None
                    continue
                if isinstance(item, Exception):
                    raise item
                for event in self._answer.feed(item):
                    if not isinstance(event, Logprobs):
                        yield event
        finally:
            self.cancel()
