"""The engine's thread: events from anywhere, a bounded queue, an end for everybody."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

import pytest

from dsv4.cache.prefix import Node
from dsv4.chat.engine import Engine
from dsv4.engine import service
from dsv4.engine.request import Event, Finish, Generation, Prefill, Token
from dsv4.engine.sampler import GREEDY
from dsv4.engine.scheduler import Queue
from dsv4.engine.sequence import Sequence
from dsv4.errors import RequestError, UsageError

Build = Callable[..., Engine]
Arrived = SimpleQueue[Event | Exception]


def ask(engine: Engine, count: int = 1000) -> tuple[service.Ticket, Arrived]:
    arrived: Arrived = SimpleQueue()
    generation = Generation((5, 6, 7), count, sampling=GREEDY)
    return engine.service.submit(generation, arrived.put), arrived


def rest(arrived: Arrived) -> Event | Exception:
    """What ends the events."""
    while True:
        event = arrived.get(timeout=20)
        if not isinstance(event, (Prefill, Token)):
            return event


def test_events_come_in_order_from_the_engines_thread(scripted: Build) -> None:
    engine = scripted("abc")
    names: list[str] = []
    done = threading.Event()

    def deliver(event: Event | Exception) -> None:
        names.append(f"{threading.current_thread().name} {type(event).__name__}")
        if isinstance(event, Finish):
            done.set()

    engine.service.submit(Generation((5, 6), 2, sampling=GREEDY), deliver)
    assert done.wait(20)
    assert names == [f"dsv4-engine {name}" for name in ("Prefill", "Token", "Token", "Finish")]


def test_a_full_queue_refuses(scripted: Build) -> None:
    engine = scripted("a" * 2000, delay=0.01, queue=1, running=1)
    first, arrived = ask(engine)
    assert isinstance(arrived.get(timeout=20), Prefill)
    ask(engine)
    with pytest.raises(RequestError) as caught:
        ask(engine)
    assert caught.value.status == 429
    first.cancel()
    assert rest(arrived) == Finish("cancelled")


def test_a_request_that_waits_can_be_cancelled(scripted: Build) -> None:
    engine = scripted("a" * 2000, delay=0.01, running=1)
    ask(engine)
    ticket, arrived = ask(engine)
    ticket.cancel()
    assert arrived.get(timeout=20) == Finish("cancelled")


def test_closing_ends_everybody_and_refuses_more(scripted: Build) -> None:
    engine = scripted("a" * 2000, delay=0.01, running=1)
    streams = [ask(engine)[1] for _ in range(3)]
    engine.close()
    for arrived in streams:
        error = rest(arrived)
        assert isinstance(error, RequestError) and error.status == 503
    with pytest.raises(RequestError) as caught:
        ask(engine)
    assert caught.value.status == 503
    engine.close()


def test_a_step_that_fails_ends_everybody_and_the_next_request_is_served(
    scripted: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = scripted("ab")
    model = engine.service.core.model
    with monkeypatch.context() as patch:
        patch.setattr(type(model), "forward_many", lambda self, pieces: 1 / 0)
        assert isinstance(rest(ask(engine)[1]), ZeroDivisionError)
    assert rest(ask(engine, 2)[1]) == Finish("length")


def test_bad_ids_are_refused_at_once(scripted: Build) -> None:
    with pytest.raises(UsageError, match="outside the vocabulary"):
        scripted("a").service.submit(Generation((10**6,), 1), print)


def test_an_idle_engine_looks_for_what_is_lost(
    scripted: Build, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(service, "CHECK_AFTER", 0.05)
    engine = scripted("ab")
    assert rest(ask(engine, 2)[1]) == Finish("length")
    assert engine.integrity()["problems"] == []
    cache = engine.service.core.memory.cache
    import torch

    node: Node = cache.publish(None, b"k" * 32, torch.zeros(1, 8, dtype=torch.uint8))
    looked = threading.Event()
    monkeypatch.setattr(service.logger, "error", lambda *args: looked.set())
    ask(engine, 2)
    assert looked.wait(20), "a pin nobody holds was not seen"
    assert engine.integrity()["problems"] == ["1 pins of blocks, 0 in use"]
    cache.release([node])
    assert engine.integrity()["problems"] == []


def test_an_engine_that_ends_a_request_is_not_idle(
    scripted: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = scripted("ab")
    memory, seen = engine.service.core.memory, []
    release = memory.release

    def look(sequence: Sequence) -> None:
        """As another thread may, when the request has left and its blocks have not."""
        seen.append(engine.integrity())
        release(sequence)

    monkeypatch.setattr(memory, "release", look)
    assert rest(ask(engine, 2)[1]) == Finish("length")
    assert [state["idle"] for state in seen] == [False]


def test_other_threads_may_ask_how_many_wait() -> None:
    queue, stop = Queue(), time.monotonic() + 0.5
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    failures: list[Exception] = []

    def ask_on() -> None:
        try:
            while time.monotonic() < stop:
                assert 0 <= len(queue) <= 51
        except Exception as error:
            failures.append(error)

    thread = threading.Thread(target=ask_on)
    thread.start()
    chain: Any = None
    made = [Sequence(Generation((1,), 1, user=str(i)), print, i, chain) for i in range(50)]
    while time.monotonic() < stop:
        for sequence in made:
            queue.add(sequence)
        queue.remove(made[7])
        queue.put_back(made[7])
        assert len(queue) == len(list(queue)) == 50
        for sequence in made:
            queue.remove(sequence)
    thread.join()
    sys.setswitchinterval(before)
    assert failures == []
