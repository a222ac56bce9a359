"""The worker: order, the bounded queue, cancellation, stopping."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from dsv4.chat.engine import Engine, Finish
from dsv4.chat.request import Request
from dsv4.encoding.events import ContentDelta
from dsv4.engine.sampler import GREEDY
from dsv4.errors import RequestError
from dsv4.server.worker import Job, Worker

Build = Callable[..., Engine]


def job(engine: Engine) -> Job:
    request = Request([{"role": "user", "content": "hi"}], effort="none", sampling=GREEDY)
    return Job(engine.prepare(request))


async def text(done: Job) -> str:
    events = [event async for event in done.events(idle=5)]
    assert isinstance(events[-1], Finish)
    return "".join(event.text for event in events if isinstance(event, ContentDelta))


def test_jobs_run_in_order_and_are_answered(scripted: Build) -> None:
    async def scenario() -> None:
        engine = scripted("abc")
        worker = Worker(engine, 4)
        jobs = [job(engine) for _ in range(3)]
        for item in jobs:
            worker.submit(item)
        worker.start()
        assert [await text(item) for item in jobs] == ["abc"] * 3
        worker.stop()

    asyncio.run(scenario())


def test_a_full_queue_refuses(scripted: Build) -> None:
    async def scenario() -> None:
        engine = scripted("abc")
        worker = Worker(engine, 2)
        worker.submit(job(engine))
        worker.submit(job(engine))
        with pytest.raises(RequestError) as caught:
            worker.submit(job(engine))
        assert caught.value.status == 429
        worker.start()
        worker.stop()

    asyncio.run(scenario())


def test_a_cancelled_job_makes_way_within_a_step(scripted: Build) -> None:
    async def scenario() -> None:
        engine = scripted("a" * 4000, delay=0.01)
        worker = Worker(engine, 4)
        worker.start()
        endless = job(engine)
        worker.submit(endless)
        events = endless.events(idle=5)
        await anext(events)
        endless.cancel()
        with pytest.raises(RequestError):
            async for _ in events:
                pass
        assert worker.waiting == 0
        worker.stop()

    asyncio.run(asyncio.wait_for(scenario(), 20))


def test_a_job_cancelled_while_waiting_never_runs(scripted: Build) -> None:
    async def scenario() -> None:
        engine = scripted("abc")
        worker = Worker(engine, 4)
        gone, stays = job(engine), job(engine)
        worker.submit(gone)
        worker.submit(stays)
        gone.cancel()
        worker.start()
        assert await text(stays) == "abc"
        assert [event async for event in gone.events(idle=5)] == []
        worker.stop()

    asyncio.run(scenario())


def test_idle_time_is_reported(scripted: Build) -> None:
    async def scenario() -> None:
        engine = scripted("a", delay=0.3)
        worker = Worker(engine, 1)
        worker.start()
        slow = job(engine)
        worker.submit(slow)
        assert await anext(slow.events(idle=0.05)) is None
        worker.stop()

    asyncio.run(scenario())


def test_stopping_refuses_and_ends_what_there_is(scripted: Build) -> None:
    async def scenario() -> None:
        engine = scripted("a" * 4000, delay=0.01)
        worker = Worker(engine, 4)
        worker.start()
        running, waiting = job(engine), job(engine)
        worker.submit(running)
        events = running.events(idle=5)
        await anext(events)
        worker.submit(waiting)
        await asyncio.to_thread(worker.stop)
        for item in (running, waiting):
            with pytest.raises(RequestError) as caught:
                async for _ in item.events(idle=5):
                    pass
            assert caught.value.status == 503
        with pytest.raises(RequestError) as caught:
            worker.submit(job(engine))
        assert caught.value.status == 503

    asyncio.run(asyncio.wait_for(scenario(), 20))
