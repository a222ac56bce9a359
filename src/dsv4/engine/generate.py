"""One request alone: the engine without a thread."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterator

from dsv4.engine.core import Core
from dsv4.engine.memory import Memory
from dsv4.engine.request import Event, Finish, Generation
from dsv4.model.transformer import Transformer


def never() -> bool:
    """The answer of a request that nobody can cancel."""
    return False


def generate(
    model: Transformer, generation: Generation, *, cancelled: Callable[[], bool] = never
) -> Iterator[Event]:
    """Events of a generation, the last of them a Finish; `cancelled` is asked before each step.

    Raises UsageError at once for ids that are none of this model or leave no room to answer.
    """
    core = Core(model, Memory(model, sys.maxsize), speculation="off")
    core.check(generation)
    return _events(core, generation, cancelled)


def _events(core: Core, generation: Generation, cancelled: Callable[[], bool]) -> Iterator[Event]:
    arrived: deque[Event | Exception] = deque()
    sequence = core.add(generation, arrived.append)
    while True:
        if cancelled():
            sequence.cancel()
        core.step()
        while arrived:
            event = arrived.popleft()
            if isinstance(event, Exception):
                raise event
            yield event
            if isinstance(event, Finish):
                return
