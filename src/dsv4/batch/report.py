"""What a batch will take and what it took, as JSON and in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from dsv4.batch.charges import total
from dsv4.batch.plan import Plan
from dsv4.batch.results import Outcome, Results
from dsv4.pricing.price import money


def estimate(plan: Plan, known: Mapping[str, Outcome], *, counted: bool) -> dict[str, Any]:
    """What is left to do. `counted`: prompts are counted with a vocabulary, not by characters.

    `answer_tokens` are the limits that the requests set; `unlimited` requests set none.
    `cost` is None where no request has a price, and leaves out the `unpriced`.
    """
    left = plan.left(known)
    priced = [one for one in left if one.model is not None]
    return {
        "requests": len(plan.requests),
        "done": len(known),
        "left": len(left),
        "prompt_tokens": sum(one.expected.prompt for one in left),
        "counted": counted,
        "answer_tokens": sum(one.expected.answer or 0 for one in left),
        "unlimited": sum(one.expected.answer is None for one in left),
        "unpriced": len(left) - len(priced),
        "cost": str(sum((one.most for one in priced), Decimal(0))) if priced else None,
    }


def estimated(values: Mapping[str, Any]) -> str:
    """An estimate in words."""
    text = f"{values['left']:,} of {values['requests']:,} requests to send: "
    text += f"about {values['prompt_tokens']:,} prompt tokens, "
    text += f"at most {values['answer_tokens']:,} answer tokens"
    if values["unlimited"]:
        text += f", and any number for {values['unlimited']:,} requests without max_tokens"
    if values["cost"] is not None:
        text += f"; at most about {money(Decimal(values['cost']))}"
        if values["unpriced"]:
            text += f", and {values['unpriced']:,} requests without a known price"
    return text


def summary(plan: Plan, results: Results, why: str | None) -> dict[str, Any]:
    """What came of all requests, in this run and earlier ones. `why`: it ended before its end."""
    known = results.known
    failures = Counter(one.failure for one in known.values() if one.failure is not None)
    tokens = total(known.values())
    return {
        "results": str(results.path),
        "requests": len(plan.requests),
        "succeeded": len(known) - failures.total(),
        "failed": failures.total(),
        "left": len(plan.requests) - len(known),
        "why": why,
        "failures": dict(failures.most_common()),
        "tokens": {"hit": tokens.hit, "miss": tokens.miss, "output": tokens.output},
        "cost": str(plan.spent(known)) if plan.priced else None,
    }


def told(values: Mapping[str, Any]) -> str:
    """A summary in words."""
    tokens = values["tokens"]
    lines = [
        f"{values['succeeded']:,} of {values['requests']:,} requests succeeded, "
        f"{values['failed']:,} failed, {values['left']:,} left; {values['results']}",
        f"{tokens['hit']:,} cached and {tokens['miss']:,} other prompt tokens, "
        f"{tokens['output']:,} answer tokens" + _priced(values["cost"]),
    ]
    lines += [f"failed: {count:,} x {reason}" for reason, count in values["failures"].items()]
    return "\n".join(lines)


class Far:
    """How far a batch is: counted result by result, as it may have very many."""

    def __init__(self, plan: Plan, known: Mapping[str, Outcome]) -> None:
        self._plan, self._known = plan, known
        self._tokens = total(known.values())
        self._cost = plan.spent(known)

    def add(self, name: str) -> None:
        """There is a result for this custom_id."""
        outcome = self._known[name]
        self._tokens += outcome.tokens
        self._cost += self._plan.spent({name: outcome})

    @property
    def used(self) -> str:
        tokens = self._tokens
        cost = str(self._cost) if self._plan.priced else None
        return f"{tokens.hit + tokens.miss + tokens.output:,} tokens" + _priced(cost)

    def __str__(self) -> str:
        return f"{len(self._known):,} of {len(self._plan.requests):,} requests, {self.used}"


def _priced(cost: str | None) -> str:
    return "" if cost is None else f", {money(Decimal(cost))}"
