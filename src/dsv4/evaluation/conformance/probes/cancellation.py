"""A stream that nobody reads any more: does it stop, and is the next request not delayed?"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from random import Random

from dsv4.errors import RequestError
from dsv4.evaluation.conformance.finding import Finding, Skipped
from dsv4.evaluation.conformance.probes.probe import Measured, Probe, Told
from dsv4.evaluation.conformance.probes.prompts import open_questions
from dsv4.evaluation.conformance.probes.service import Messages, Service

RUNNING = ("vllm:num_requests_running", "llamacpp:requests_processing")
STREAMS, ROOM, TIMES = 6, 192, 3
PATIENCE = 3.0
"""Seconds after which a dropped answer has to have stopped."""
DELAY = 0.5
"""A dropped load is still there if it costs more than this share of what it costs running."""
WHERE = "cancellation"
HINT = "the connection is not watched, or a proxy in front of the engine keeps it open"
KNOWN = "a client that goes away goes on being computed, and paid for"


def run(service: Service) -> Iterator[Told]:
    asked = open_questions(Random("cancellation"), STREAMS, 40)
    idle = service.metric(RUNNING)
    alone = _latency(service)
    loaded = _under_load(service, asked)
    begun, dropped = _after_dropping(service, asked)
    if begun < STREAMS:
        yield Skipped(WHERE, f"{begun} of {STREAMS} streams began")
        return
    yield Measured(
        f"{TIMES} short requests took {dropped:.2f} s after {begun} dropped streams, "
        f"{alone:.2f} s alone, {loaded:.2f} s while {STREAMS} run"
    )
    if idle == 0:
        left = _left(service)
        yield Measured(f"{left:.0f} requests still run within {PATIENCE:g} s of that")
        if left:
            yield Finding(
                f"{left:.0f} of {begun} dropped streams are still computed {PATIENCE:g} s later",
                WHERE,
                resembles=KNOWN,
                hint=HINT,
            )
        return
    if loaded < 1.5 * alone + 0.05:
        yield Skipped(
            "whether dropped streams free their slots",
            f"{STREAMS} running ones do not slow the next request enough to tell "
            f"(and the server shows no {RUNNING[0]}, or others use it)",
        )
        return
    bound = alone + DELAY * (loaded - alone)
    # Twice, as one request may be slow for any reason.
    if dropped > bound and (dropped := _after_dropping(service, asked)[1]) > bound:
        yield Finding(
            f"after {begun} dropped streams {TIMES} short requests take {dropped:.2f} s, as if "
            f"they ran ({loaded:.2f} s; alone {alone:.2f} s)",
            WHERE,
            sure="likely",
            resembles=KNOWN,
            hint=HINT,
        )


def _after_dropping(service: Service, asked: list[Messages]) -> tuple[int, float]:
    """Streams that began and were dropped, and the seconds of short requests after that."""
    begun = 0
    for messages in asked:
        try:
            begun += service.dropped(messages, ROOM)
        except RequestError:
            continue
    return begun, _latency(service)


def _latency(service: Service) -> float:
    """Seconds of some short requests, one after the other."""
    (messages,) = open_questions(Random("latency"), 1, 0)
    return sum(service.ask(messages, 1, **service.cold()).seconds for _ in range(TIMES))


def _under_load(service: Service, asked: list[Messages]) -> float:
    """The same while streams run, which began as the dropped ones will: one after the other."""
    with ThreadPoolExecutor(len(asked)) as pool:
        running = []
        for messages in asked:
            began = threading.Event()
            running.append(pool.submit(service.stream, messages, ROOM, began=began.set))
            began.wait()
        seconds = _latency(service)
        for stream in running:
            stream.result()
    return seconds


def _left(service: Service) -> float:
    """Requests that run, once they had time to stop."""
    end = time.monotonic() + PATIENCE
    while (left := service.metric(RUNNING) or 0.0) and time.monotonic() < end:
        time.sleep(0.1)
    return left


PROBE = Probe(
    WHERE,
    "six streams dropped after their first word, and how long the next request takes: alone, after "
    "them, while they run",
    "answers that go on being computed for nobody",
    run,
)
