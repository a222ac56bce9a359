"""Threads for work that would hold up the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from dsv4.engine.service import RETRY_AFTER
from dsv4.errors import RequestError

T = TypeVar("T")


class Workers:
    """So many threads, and at most `most` calls that wait or run. Belongs to the event loop."""

    def __init__(self, name: str, threads: int, most: int) -> None:
        self._pool = ThreadPoolExecutor(threads, f"dsv4-{name}")
        self._most = most
        self.busy = 0
        """Calls that wait or run."""

    async def run(self, call: Callable[..., T], *given: object) -> T:
        """Raises what the call raises, and RequestError (429) when too many wait."""
        if self.busy >= self._most:
            raise RequestError(
                f"{self._most} requests are being read already; try again in {RETRY_AFTER}s",
                status=429,
                code="rate_limit_exceeded",
            )
        self.busy += 1
        # Whoever waits for it may be cancelled; the call goes on, and counts until it ends.
        future = asyncio.get_running_loop().run_in_executor(self._pool, call, *given)
        future.add_done_callback(self._ended)
        return await asyncio.shield(future)

    def close(self) -> None:
        """Start nothing any more."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _ended(self, future: asyncio.Future[T]) -> None:
        self.busy -= 1
        if not future.cancelled():
            future.exception()  # nobody may be left to ask for it
