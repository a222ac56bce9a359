"""Answers that have to be equal: how many are, and what to say if not all are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from dsv4.evaluation.conformance.finding import Finding, Skipped
from dsv4.evaluation.conformance.probes.chance import SUSPICIOUS, interval, lower
from dsv4.evaluation.conformance.probes.probe import Measured, Told
from dsv4.evaluation.conformance.probes.reply import Reply
from dsv4.evaluation.intervals import wilson

TIE = 0.25
"""Nats between two next tokens, of which rounding may take the other: two steps of a bfloat16
logit around 16."""
RARE = 0.05
"""A share of differences, surely above which they are an error."""


@dataclass(slots=True)
class Agreement:
    """Pairs of answers to one question. `differ`: how those that differ do so; `ties` of them go
    apart where two tokens were about as likely."""

    pairs: int = 0
    ties: int = 0
    differ: list[str] = field(default_factory=list)

    def add(self, first: Reply, second: Reply) -> bool:
        """Whether they are equal; a refusal is no answer."""
        if first.status >= 400 or second.status >= 400:
            return True
        self.pairs += 1
        if first.said == second.said:
            return True
        self.ties += _tie(first, second)
        self.differ.append(_difference(first, second))
        return False

    @property
    def equal(self) -> list[float]:
        return [0.0] * len(self.differ) + [1.0] * (self.pairs - len(self.differ))

    def shown(self) -> str:
        share = wilson(self.pairs - len(self.differ), self.pairs)
        return f"{interval(share)} of {self.pairs} equal"


def judged(
    where: str, what: str, found: Agreement, control: Agreement | None, resembles: str, hint: str
) -> Iterator[Told]:
    """What there is to say of `found`; `control`: the same without what is being tried. `what`:
    such as "answers depend on load"."""
    if not found.pairs:
        yield Skipped(where, "there were no two answers to compare")
        return
    beside = "" if control is None else f" (without that {control.shown()})"
    yield Measured(f"{where}: {found.shown()}{beside}")
    if not found.differ:
        return
    if control is not None and lower(found.equal, control.equal) >= SUSPICIOUS and control.differ:
        return  # they differ anyway, which is said where nothing else is tried
    surprising = len(found.differ) - found.ties
    often = wilson(surprising, found.pairs).low > RARE
    tied = f", {found.ties} of them where two tokens are nearly as likely" if found.ties else ""
    yield Finding(
        f"{what}: {len(found.differ)} of {found.pairs} answers at temperature 0 differ"
        f"{tied}{beside}; for example {found.differ[0]}",
        where,
        "error" if often else "warning",
        "certain" if often else "possible",
        resembles,
        hint if surprising else "equal but for rounding: some engines have a deterministic mode",
    )


def _tie(first: Reply, second: Reply) -> bool:
    """Whether the first token that differs was nearly as likely in the first answer."""
    for mine, other in zip(first.logprobs, second.logprobs, strict=False):
        if mine.get("token") == other.get("token"):
            continue
        known = {one.get("token"): one.get("logprob") for one in mine.get("top_logprobs") or ()}
        chosen, second_best = mine.get("logprob"), known.get(other.get("token"))
        return (
            isinstance(chosen, (int, float))
            and isinstance(second_best, (int, float))
            and chosen - second_best < TIE
        )
    return False


def _difference(first: Reply, second: Reply) -> str:
    names = ("reasoning", "content", "calls", "finish_reason")
    for name, mine, other in zip(names, first.said, second.said, strict=True):
        if mine != other:
            at = parting(mine, other) if isinstance(mine, str) and isinstance(other, str) else 0
            shown = [str(one)[max(0, at - 20) : at + 40] for one in (mine, other)]
            return f"{name} {shown[0]!r} and {shown[1]!r}" + (f" (character {at})" if at else "")
    raise AssertionError("equal answers do not differ")


def parting(first: str, second: str) -> int:
    """Characters that both begin with."""
    for i, (a, b) in enumerate(zip(first, second, strict=False)):
        if a != b:
            return i
    return min(len(first), len(second))
