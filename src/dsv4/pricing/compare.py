"""The same work on every API there is a price for."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from dsv4.pricing.price import Price, PricedModel, Prices, Tokens


@dataclass(frozen=True, slots=True)
class Work:
    """Tokens, and when they were used."""

    tokens: Tokens
    when: datetime


@dataclass(frozen=True, slots=True)
class Cost:
    """What work costs on one model, at the hours it was done.

    `peak`: if all of it were done at the dearest hours. `price`: the one that applied last.
    """

    model: PricedModel
    price: Price
    usd: Decimal
    peak: Decimal


def compare(prices: Prices, work: Iterable[Work]) -> list[Cost]:
    """The cost on every model that was sold at all those times."""
    work = list(work)
    found = (cost(model, work) for model in prices)
    return [one for one in found if one is not None]


def cost(model: PricedModel, work: Iterable[Work]) -> Cost | None:
    """The cost on one model; None if it was not sold at one of those times."""
    usd, peak, last = Decimal(0), Decimal(0), None
    for one in sorted(work, key=lambda one: one.when):
        last = model.at(one.when)
        if last is None:
            return None
        usd += last.at(one.when).cost(one.tokens)
        peak += last.highest.cost(one.tokens)
    return None if last is None else Cost(model, last, usd, peak)
