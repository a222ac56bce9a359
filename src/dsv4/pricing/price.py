"""A price, the hours and the time it holds for, and the models it is asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from decimal import Context, Decimal, Inexact

from dsv4.errors import UsageError

UNIT = 1_000_000
"""Tokens that a price is for."""

EXACT = Context(prec=60, traps=[Inexact])
"""Arithmetic that would rather fail than round."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """What was read and written: prompt tokens found in the prefix cache, the other prompt
    tokens, and answer tokens with their reasoning."""

    hit: int = 0
    miss: int = 0
    output: int = 0

    def __add__(self, other: Tokens) -> Tokens:
        return Tokens(self.hit + other.hit, self.miss + other.miss, self.output + other.output)


@dataclass(frozen=True, slots=True)
class Rate:
    """USD per 1M tokens, each with six decimals at most: a token then costs whole millionths
    of a millionth of a dollar."""

    hit: Decimal
    miss: Decimal
    output: Decimal

    def cost(self, tokens: Tokens) -> Decimal:
        """USD for these tokens, exactly."""
        total = sum(
            (
                EXACT.multiply(price, Decimal(count))
                for price, count in zip(
                    (self.hit, self.miss, self.output),
                    (tokens.hit, tokens.miss, tokens.output),
                    strict=True,
                )
            ),
            Decimal(0),
        )
        return EXACT.divide(total, Decimal(UNIT))

    def times(self, factor: Decimal) -> Rate:
        return Rate(*(EXACT.multiply(v, factor) for v in (self.hit, self.miss, self.output)))


@dataclass(frozen=True, slots=True)
class Peak:
    """When a price is multiplied: hours of the day, on some days of the week (0: Monday), but
    not on `holidays`. All in UTC."""

    factor: Decimal
    hours: tuple[tuple[time, time], ...]
    days: frozenset[int] = frozenset(range(7))
    holidays: frozenset[date] = frozenset()

    def covers(self, when: datetime) -> bool:
        if when.weekday() not in self.days or when.date() in self.holidays:
            return False
        return any(start <= when.time() < end for start, end in self.hours)


@dataclass(frozen=True, slots=True)
class Price:
    """A rate from `since` (None: ever) until `until` (None: the next price of its model)."""

    rate: Rate
    since: datetime | None = None
    until: datetime | None = None
    peak: Peak | None = None
    note: str = ""
    source: str = ""

    def at(self, when: datetime) -> Rate:
        """The rate at an instant of its time."""
        if self.peak is not None and self.peak.covers(when):
            return self.rate.times(self.peak.factor)
        return self.rate

    @property
    def highest(self) -> Rate:
        """The rate of its dearest hours."""
        return self.rate if self.peak is None else self.rate.times(self.peak.factor)


@dataclass(frozen=True, slots=True)
class PricedModel:
    """A model of a vendor; `prices` in the order of their `since`."""

    name: str
    vendor: str
    prices: tuple[Price, ...]
    aliases: tuple[str, ...] = ()

    def at(self, when: datetime) -> Price | None:
        """The price that holds at an instant; None: it was not sold then."""
        price = self.latest(when)
        if price is None or (price.until is not None and price.until <= when):
            return None
        return price

    def latest(self, when: datetime) -> Price | None:
        """The price that holds at an instant, or held last."""
        known = [price for price in self.prices if price.since is None or price.since <= when]
        return known[-1] if known else None

    def most(self, tokens: Tokens) -> Decimal:
        """USD that tokens cost now at the dearest hours."""
        price = self.latest(datetime.now(UTC))
        return Decimal(0) if price is None else price.highest.cost(tokens)

    def paid(self, tokens: Tokens, when: datetime) -> Decimal:
        """USD that tokens cost at an instant."""
        price = self.latest(when)
        return Decimal(0) if price is None else price.at(when).cost(tokens)


class Prices:
    """Models and what they cost, in the order they were given. Immutable."""

    def __init__(self, models: Mapping[str, PricedModel]) -> None:
        self._models = dict(models)
        self._names = {alias: m.name for m in models.values() for alias in m.aliases}
        self._names |= {name: name for name in models}

    def __iter__(self) -> Iterator[PricedModel]:
        return iter(self._models.values())

    def __contains__(self, name: str) -> bool:
        return name in self._names

    def find(self, name: str) -> PricedModel:
        """A model by its name or an alias. Raises UsageError, naming those there are."""
        if name not in self._names:
            known = ", ".join(self._models)
            raise UsageError(f"there is no price for {name!r}", f"one of {known}")
        return self._models[self._names[name]]

    def joined(self, other: Prices) -> Prices:
        """These and those of `other`, whose models win over models of the same name."""
        return Prices(self._models | other._models)


def money(usd: Decimal) -> str:
    """USD for people: cents, and more digits where a cent is much."""
    if usd >= 1 or usd == 0:
        return f"${usd:,.2f}"
    return f"${usd:.{max(2, 2 - usd.adjusted())}f}"
