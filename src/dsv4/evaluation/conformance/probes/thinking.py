"""With thinking and without: does each part of an answer stand where it belongs?"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from dsv4.encoding.control import THINK_CLOSE, THINK_OPEN
from dsv4.evaluation.conformance.finding import Finding, Skipped
from dsv4.evaluation.conformance.probes.chance import interval
from dsv4.evaluation.conformance.probes.probe import Measured, Probe, Told
from dsv4.evaluation.conformance.probes.prompts import open_questions
from dsv4.evaluation.conformance.probes.service import Service
from dsv4.evaluation.conformance.probes.streaming import Pair
from dsv4.evaluation.intervals import wilson

ROOM = 48
EFFORTS = ("low", "medium", "high", "max")
WHERE = "thinking"


def run(service: Service) -> Iterator[Told]:
    if not service.plain:
        yield Skipped(WHERE, "the server takes no field that switches thinking")
        return
    asked = open_questions(Random("thinking"), 4, 60)
    thoughts = spilled = silent = 0
    for messages in asked:
        plain, deep = service.ask(messages, ROOM), service.ask(messages, ROOM, **service.thinks)
        thoughts += bool(plain.reasoning)
        silent += not deep.reasoning
        spilled += any(
            marker in reply.content
            for reply in (plain, deep)
            for marker in (THINK_OPEN, THINK_CLOSE)
        )
    share = wilson(len(asked) - silent, len(asked))
    yield Measured(f"told to think, {interval(share)} of {len(asked)} answers hold reasoning")
    if thoughts:
        yield Finding(
            f"{thoughts} of {len(asked)} answers hold reasoning though thinking is off",
            WHERE,
            hint="the switch is read under another name: the prompt should end in </think>",
            resembles="openclaw#122022: thinking flags differ per server",
        )
    if spilled:
        yield Finding(
            f"{spilled} of {2 * len(asked)} answers hold <think> or </think> in their content",
            WHERE,
            hint="the reasoning parser is off, or of another model",
            resembles="reasoning that leaks into content",
        )
    if silent == len(asked):
        yield Finding(
            f"none of {len(asked)} answers holds reasoning though thinking is on",
            WHERE,
            "warning",
            "possible",
            hint="the switch is not read, or reasoning is not returned as reasoning_content",
            resembles="openclaw#122022: thinking flags differ per server",
        )
    yield from Pair(service, asked[:3], ROOM, **service.thinks).told("thinking, streamed")
    yield from _efforts(service)


def _efforts(service: Service) -> Iterator[Told]:
    """Every level is answered, or refused with a reason."""
    (messages,) = open_questions(Random("effort"), 1, 0)
    counts = {}
    for effort in EFFORTS:
        reply = service.ask(messages, 1, **service.thinks, reasoning_effort=effort)
        if reply.status >= 500:
            yield Finding(f"reasoning_effort {effort!r} is answered with {reply.status}", WHERE)
        counts[effort] = reply.count("prompt_tokens") if reply.status < 400 else None
    shown = ", ".join(
        f"{effort} {'refused' if count is None else count}" for effort, count in counts.items()
    )
    yield Measured(f"prompt tokens of one question by effort: {shown}")
    known = [count for count in counts.values() if count is not None]
    if len(known) > 1 and len(set(known)) == 1:
        yield Finding(
            f"no level of effort changes the prompt ({known[0]} tokens); in V4 the highest one "
            "writes an instruction",
            WHERE,
            "note",
            "likely",
            hint="reasoning_effort is not read, or turned into something else",
        )


PROBE = Probe(
    WHERE,
    "four questions with thinking off and on, whole and streamed, and every level of effort",
    "reasoning where thinking is off, markers in the content, switches that are not read",
    run,
)
