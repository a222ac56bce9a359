"""The same question again, alone: the same answer?"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from random import Random

from dsv4.evaluation.conformance.probes.agreement import Agreement, judged
from dsv4.evaluation.conformance.probes.probe import Measured, Probe, Told
from dsv4.evaluation.conformance.probes.prompts import open_questions
from dsv4.evaluation.conformance.probes.service import LOGPROBS, Service, apart

TIMES, ROOM = 4, 24


def run(service: Service) -> Iterator[Told]:
    found = Agreement()
    extra = LOGPROBS if service.logprobs else {}
    drift: list[float] = []
    for messages in open_questions(Random("repeats"), 4, 160):
        # Each time as if for the first time, where the server reads salts: what a cache changes
        # is another probe's question.
        replies = [service.ask(messages, ROOM, **service.cold(), **extra) for _ in range(TIMES)]
        for reply in replies[1:]:
            found.add(replies[0], reply)
        tops = [service.next_tokens(messages, **service.cold()) for _ in range(TIMES)]
        drift += [apart(a, b) for a, b in pairwise(tops) if a and b]
    yield from judged(
        "the same request again",
        "temperature 0 is not deterministic",
        found,
        None,
        "vllm#53257: not deterministic at temperature 0, identifiers lose characters",
        "look for sampling that ignores temperature, and for state shared between requests",
    )
    if drift:
        yield Measured(
            f"log-probabilities of the next token, {len(drift)} pairs: at most "
            f"{max(drift):.2g} nats apart"
        )


PROBE = Probe(
    "repeats",
    "four times the same question at temperature 0, one after the other",
    "answers that differ without any reason",
    run,
)
