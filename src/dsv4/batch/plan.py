"""What a batch is going to take, request by request, told before it starts."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from decimal import Decimal

from dsv4.batch.charges import Count, Expected, Tariff, expected
from dsv4.batch.request import Request, Requests
from dsv4.batch.results import Outcome
from dsv4.errors import UsageError
from dsv4.pricing.price import PricedModel, Tokens


@dataclass(frozen=True, slots=True)
class Planned:
    """A request and what it takes. `model`: whose price it is charged at, if there is one."""

    request: Request
    expected: Expected
    model: PricedModel | None

    @property
    def most(self) -> Decimal:
        """USD it may cost."""
        return Decimal(0) if self.model is None else self.model.most(self.expected.most())


class Plan:
    """All requests of a batch, in their order, with what they take."""

    def __init__(
        self, requests: Requests, count: Count, tariff: Tariff, otherwise: int | None = None
    ) -> None:
        """`count`: tokens of a text; `otherwise`: the longest answer of a request that sets no
        limit (None: nobody knows)."""
        self.requests = requests
        self._planned: dict[str, Planned] = {}
        for request in requests:
            body = requests.body(request)
            self._planned[request.custom_id] = Planned(
                request, expected(body, count, otherwise), tariff.model(body)
            )
        self.priced = any(one.model is not None for one in self._planned.values())
        """Whether any request has a price."""

    def left(self, known: Collection[str]) -> list[Planned]:
        """What is to be sent, where results are known for these custom_ids."""
        return [one for name, one in self._planned.items() if name not in known]

    def spent(self, known: Mapping[str, Outcome]) -> Decimal:
        """USD that these results cost, as far as there are prices: at most, where an answer does
        not say what it used."""
        return sum((self._cost(name, outcome) for name, outcome in known.items()), Decimal(0))

    def _cost(self, name: str, outcome: Outcome) -> Decimal:
        planned = self._planned[name]
        if planned.model is None:
            return Decimal(0)
        if outcome.failure is None and outcome.tokens == Tokens():
            return planned.most
        return planned.model.paid(outcome.tokens, outcome.when)

    def check_bounded(self) -> None:
        """Raises UsageError for requests whose cost has no bound, so that no limit can be kept."""
        for one in self._planned.values():
            where = f"{self.requests.path}, line {one.request.number}"
            if one.model is None:
                raise UsageError(f"{where}: there is no price for its model", "--price names one")
            if one.expected.answer is None:
                raise UsageError(
                    f"{where} sets no max_tokens, so nobody knows what it costs", "set it"
                )
