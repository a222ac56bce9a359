"""With speculative decoding and without: the same answer?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from random import Random

from dsv4.evaluation.conformance.finding import Skipped
from dsv4.evaluation.conformance.probes.agreement import Agreement, judged
from dsv4.evaluation.conformance.probes.probe import Measured, Probe, Told
from dsv4.evaluation.conformance.probes.prompts import open_questions, user
from dsv4.evaluation.conformance.probes.service import Messages, Service

ROOM = 48
GUESSED = (
    "vllm:spec_decode_num_draft_tokens_total",
    "llamacpp:spec_decode_num_draft_tokens_total",
)
CUTS = (3, 7, 12, 20)


def run(service: Service) -> Iterator[Told]:
    before = service.metric(GUESSED)
    yield from _cuts(service)
    after = service.metric(GUESSED)
    if before is not None and after is not None:
        yield Measured(f"tokens that the server says it guessed meanwhile: {after - before:.0f}")
    if service.without_speculation is None:
        yield Skipped(
            "the same answers without speculation",
            "nothing switches it for one request: --speculation-off names fields, or another URL",
        )
        return
    found, control = Agreement(), Agreement()
    for messages in _asked():
        guessed = service.ask(messages, ROOM)
        control.add(guessed, service.ask(messages, ROOM))
        found.add(guessed, service.without_speculation(messages, ROOM))
    yield from judged(
        "speculation",
        "speculative decoding changes answers",
        found,
        control,
        "vllm#48304: wrong RoPE in the draft; vllm-ascend#9111: state not kept for every prefix",
        "every accepted prefix needs its own window and compressor state",
    )


def _asked() -> list[Messages]:
    """What is easily guessed among them."""
    repeated = "one two three four five six seven eight nine ten " * 3
    return [
        *open_questions(Random("speculation"), 6, 100),
        user(f"Repeat this: {repeated}"),
        user("Count from 1 to 30."),
    ]


def _cuts(service: Service) -> Iterator[Told]:
    """An answer that is cut early is the beginning of the longer one, wherever guesses end."""
    found, control = Agreement(), Agreement()
    # Small models answer most questions in a word or two, and a story at length.
    for messages in (*_asked()[-3:], user("Tell me a long story.")):
        longest = service.ask(messages, ROOM)
        control.add(longest, service.ask(messages, ROOM))
        for limit in CUTS:
            cut = service.ask(messages, limit)
            if cut.finish != "length":
                continue
            shown = len(cut.content.rstrip("\ufffd"))
            cut.content = cut.content[:shown]
            found.add(replace(longest, content=longest.content[:shown], finish="length"), cut)
    yield from judged(
        "max_tokens",
        "an answer that is cut is not the beginning of the longer one",
        found,
        control,
        "sglang#26039: a drafted end is accepted",
        "guesses that go beyond the limit, or a state that keeps refused ones",
    )


PROBE = Probe(
    "speculation",
    "answers cut at 3 to 20 tokens against longer ones; with --speculation-off, eight answers with "
    "and without",
    "guessed tokens that change what is said",
    run,
)
