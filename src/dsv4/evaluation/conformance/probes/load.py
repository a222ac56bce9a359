"""Alone and among others: the same answer?"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from random import Random

from dsv4.evaluation.conformance.probes.agreement import Agreement, judged
from dsv4.evaluation.conformance.probes.probe import Measured, Probe, Told
from dsv4.evaluation.conformance.probes.prompts import open_questions
from dsv4.evaluation.conformance.probes.service import LOGPROBS, Service

ROOM, QUESTIONS, ROUNDS = 24, 8, 2


def run(service: Service) -> Iterator[Told]:
    asked = open_questions(Random("load"), QUESTIONS, 200)
    extra = LOGPROBS if service.logprobs else {}
    service.lanes = 1
    alone = [service.ask(messages, ROOM, **service.cold(), **extra) for messages in asked]
    control = Agreement()
    for messages, reply in zip(asked, alone, strict=True):
        control.add(reply, service.ask(messages, ROOM, **service.cold(), **extra))
    found = Agreement()
    for _ in range(ROUNDS):
        replies = service.together(
            [partial(service.ask, m, ROOM, **service.cold(), **extra) for m in asked]
        )
        for reply, other in zip(alone, replies, strict=True):
            found.add(reply, other)
    refused = sum(reply.status >= 400 for reply in replies)
    if refused:
        yield Measured(f"{refused} of {QUESTIONS} requests at a time were refused")
    if not found.differ:
        service.lanes = LANES
    yield from judged(
        f"{QUESTIONS} requests at a time",
        "answers depend on load",
        found,
        control,
        "vllm#41331: garbled under concurrency; vllm#53257: wrong more often under load; "
        "transformers#46003: padding of shorter rows is pooled into compressed entries",
        "compare with a batch of one (--max-num-seqs 1), with CUDA graphs and overlap off",
    )


LANES = 4
"""Questions at a time from here on, if answers do not depend on it."""

PROBE = Probe(
    "load",
    "eight different questions at temperature 0, alone and then all at once, twice",
    "answers that depend on what else is being computed",
    run,
)
