"""What requests cost: before they are sent, at most; when they are answered, exactly."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from dsv4.batch.results import Outcome
from dsv4.pricing.price import PricedModel, Prices, Tokens

Count = Callable[[str], int]
"""Tokens of a text."""

_WRITTEN = ("messages", "prompt", "suffix", "input", "instructions", "tools")
"""Fields of bodies that go into the prompt."""
_AROUND = 4
"""Tokens that the template puts around a message."""
_LIMITS = ("max_completion_tokens", "max_tokens", "max_output_tokens")


@dataclass(frozen=True, slots=True)
class Expected:
    """A request before it is sent. `prompt`: its tokens, about. `answer`: tokens that the answer
    may have (None: nobody knows)."""

    prompt: int
    answer: int | None

    def most(self) -> Tokens:
        """As many tokens as it may be charged for, nothing of them cached."""
        return Tokens(miss=self.prompt, output=self.answer or 0)


def expected(body: Mapping[str, Any], count: Count, otherwise: int | None) -> Expected:
    """What a body asks for; `otherwise`: the longest answer of one that sets no limit."""
    prompt = sum(
        1 if isinstance(leaf, int) else count(leaf)
        for key in _WRITTEN
        for leaf in _leaves(body.get(key))
    )
    messages = body.get("messages")
    prompt += _AROUND * len(messages) if isinstance(messages, list) else 0
    limits = [body[key] for key in _LIMITS if type(body.get(key)) is int]
    answers = body["n"] if type(body.get("n")) is int else 1
    limit = limits[0] if limits else otherwise
    return Expected(prompt, None if limit is None else limit * max(answers, 1))


class Tariff:
    """Which model's price a request is charged at: `name`, or that of the body's own model."""

    def __init__(self, prices: Prices, name: str | None) -> None:
        self._prices = prices
        self._always: PricedModel | None = None if name is None else prices.find(name)

    def model(self, body: Mapping[str, Any]) -> PricedModel | None:
        """The priced model of a body; None: there is no price for it."""
        if self._always is not None:
            return self._always
        name = body.get("model")
        return self._prices.find(name) if isinstance(name, str) and name in self._prices else None


def total(outcomes: Iterable[Outcome]) -> Tokens:
    return sum((outcome.tokens for outcome in outcomes), Tokens())


def _leaves(value: Any) -> Iterator[str | int]:
    """All texts inside a value; the ids of a prompt given as ids."""
    if isinstance(value, (str, int)) and not isinstance(value, bool):
        yield value
    elif isinstance(value, Mapping):
        for key, part in value.items():
            if key not in ("role", "type"):
                yield from _leaves(part)
    elif isinstance(value, list):
        for part in value:
            yield from _leaves(part)
