"""What paid answers cost: before they are asked for, while they come, and in the end."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from dsv4.errors import RequestError, UsageError
from dsv4.evaluation.question import Chat, Fill, Question, Target
from dsv4.evaluation.records import Record
from dsv4.pricing.price import PricedModel, Tokens, money

AROUND = 32
"""Tokens of a template around a question, more rather than fewer."""


class Spending:
    """The money of an evaluation. Called from one thread at a time.

    price: whose tokens are charged (None: nobody's). limit: USD that all answers together may
    cost, those of earlier runs too. stopped: whether nothing is to be asked any more.

    Raises UsageError for a limit without a price.
    """

    def __init__(
        self,
        price: PricedModel | None = None,
        limit: Decimal | None = None,
        stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        if limit is not None and price is None:
            raise UsageError("a limit of cost needs a price", "--price names one")
        self.price, self.limit, self.stopped = price, limit, stopped
        self.paid = Decimal(0)
        """USD for all answers that are known."""
        self._asked: dict[str, Decimal] = {}

    def expected(self, question: Question, target: Target) -> Tokens:
        """Tokens of a question, about, and of its longest answer."""
        assert isinstance(question, (Chat, Fill))
        return Tokens(miss=target.length(question) + AROUND, output=question.max_tokens)

    def most(self, tokens: Tokens) -> Decimal:
        """USD for tokens now, at the dearest hours."""
        return Decimal(0) if self.price is None else self.price.most(tokens)

    def cost(self, records: Iterable[Record]) -> Decimal:
        """USD that answers cost when they came."""
        if self.price is None:
            return Decimal(0)
        costs = [
            self.price.paid(tokens(record), datetime.fromtimestamp(record.when, UTC))
            for record in records
        ]
        return sum(costs, Decimal(0))

    def add(self, records: Iterable[Record]) -> None:
        """There are answers: of earlier runs, or one that was asked for just now."""
        for record in records:
            self._asked.pop(record.id, None)
            self.paid += self.cost([record])

    def ask(self, id: str, question: Question, target: Target) -> bool:
        """Whether a question may be asked now; then it counts with its most until `add`."""
        free = self.price is None  # what likelihoods cost, for one, nobody can say
        return self.reserve(id, Tokens() if free else self.expected(question, target))

    def reserve(self, id: str, tokens: Tokens) -> bool:
        """Whether something with as many tokens at most may be asked now; then it counts until
        `add` or `release`."""
        if self.stopped():
            return False
        most = self.most(tokens)
        under_way = sum(self._asked.values(), Decimal(0))
        if self.limit is not None and self.paid + under_way + most > self.limit:
            return False
        self._asked[id] = most
        return True

    def release(self, id: str) -> None:
        """It got no answer."""
        self._asked.pop(id, None)

    def unfinished(self, name: str, left: int, count: int) -> BaseException:
        """Why questions are left."""
        if self.stopped():
            return KeyboardInterrupt()
        return RequestError(
            f"{left:,} of {count:,} questions of {name} are left: the limit of cost is reached",
            "run it again with a higher --limit-cost",
            status=402,
        )


def tokens(record: Record) -> Tokens:
    return Tokens(record.hit, record.miss, record.tokens)


@dataclass(frozen=True)
class Estimate:
    """What is left of a benchmark, or of several: questions, their tokens about, and the tokens
    that the answers may have. cost: USD at most; None: there is no price."""

    questions: int
    answered: int
    tokens: Tokens = field(default=Tokens())
    cost: Decimal | None = None

    def __add__(self, other: Estimate) -> Estimate:
        cost = None if self.cost is None or other.cost is None else self.cost + other.cost
        return Estimate(
            self.questions + other.questions,
            self.answered + other.answered,
            self.tokens + other.tokens,
            cost,
        )

    def json(self) -> dict[str, Any]:
        return {
            "questions": self.questions,
            "answered": self.answered,
            "prompt_tokens": self.tokens.miss,
            "answer_tokens": self.tokens.output,
            "cost": None if self.cost is None else str(self.cost),
        }

    def __str__(self) -> str:
        text = (
            f"{self.questions - self.answered:,} of {self.questions:,} questions to ask: about "
            f"{self.tokens.miss:,} prompt tokens, at most {self.tokens.output:,} answer tokens"
        )
        return text if self.cost is None else f"{text}; at most about {money(self.cost)}"


def total(estimates: Sequence[Estimate], spending: Spending) -> Estimate:
    none = Estimate(0, 0, cost=None if spending.price is None else Decimal(0))
    return sum(estimates, none)
