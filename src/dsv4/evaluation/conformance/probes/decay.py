"""Long prompts: does what is written behind them fall into loops?"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from dsv4.evaluation.conformance.finding import Finding, Skipped
from dsv4.evaluation.conformance.probes.chance import SUSPICIOUS, lower, shown
from dsv4.evaluation.conformance.probes.leaks import loops
from dsv4.evaluation.conformance.probes.probe import Measured, Probe, Told
from dsv4.evaluation.conformance.probes.prompts import user, words
from dsv4.evaluation.conformance.probes.service import Service

WHERE = "decay"
LENGTHS = (50, 400, 1800, 7000, 28000)
"""Words in front of the question."""
TIMES, ROOM = 4, 64
SHARE = 0.2
"""Of the run's time and tokens that this probe may take."""


def run(service: Service) -> Iterator[Told]:
    since, slowest = service.budget.mark(), 0.0
    by_length: dict[int, list[float]] = {}
    for length in LENGTHS:
        tokens = TIMES * (length + ROOM)
        if not service.budget.fits(SHARE, since, TIMES * slowest * 5, tokens):
            yield Skipped(
                f"{WHERE} from {length:,} words on", f"not within {SHARE:.0%} of the budget"
            )
            break
        whole = []
        for i in range(TIMES):
            text = words(Random(f"{service.run} decay {i}"), length)
            reply = service.ask(user(f"{text}\n\nWrite a story about something else."), ROOM)
            slowest = max(slowest, reply.seconds)
            if reply.status < 400:
                whole.append(0.0 if loops(reply.content) else 1.0)
        if whole:
            by_length[length] = whole
            yield Measured(f"behind {length:,} words {shown(whole)} answers do not end in a loop")
    first = next(iter(by_length.values()), [])
    later = [
        value for length, values in by_length.items() for value in values if length > LENGTHS[0]
    ]
    chance = lower(later, first)
    if chance < SUSPICIOUS:
        yield Finding(
            f"answers behind longer texts end in loops: {shown(later)} do not, behind "
            f"{LENGTHS[0]} words {shown(first)} (by chance: {chance:.1g})",
            WHERE,
            "note",
            "possible",
            "mlx-lm#1189: one RoPE base for all layers is fluent for some 1,000 tokens, then loops",
            "a small model may do so by itself: compare with another server of the same weights",
        )


PROBE = Probe(
    WHERE,
    "four stories each behind texts of 50, 400, 1,800 and more words",
    "loops that begin with length (a note: a small model may do so by itself)",
    run,
)
