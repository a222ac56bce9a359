"""Price files: the one that comes with the package, and the user's own."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from datetime import UTC, date, datetime, time
from decimal import Decimal
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

from dsv4.errors import ConfigError
from dsv4.pricing.price import Peak, Price, PricedModel, Prices, Rate

BUILT_IN = Path(__file__).parent / "prices.toml"
MOST_BYTES = 1 << 20
DECIMALS = 6
DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")

_HOURS = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-4]):([0-5]\d)")


@cache
def built_in() -> Prices:
    """The prices that come with the package."""
    return read_prices(BUILT_IN)


def read_prices(path: Path) -> Prices:
    """The prices of a TOML or JSON file. Raises ConfigError, which names file, model and key."""
    values = read_table(path)
    try:
        return _prices(values)
    except _Wrong as error:
        raise ConfigError(
            f"{path}: {error}", "docs/accounts.md describes the file of prices"
        ) from error


def read_table(path: Path) -> dict[str, Any]:
    """A TOML or JSON file as plain values, numbers with a point as Decimal.

    Raises ConfigError if it cannot be read.
    """
    try:
        if path.stat().st_size > MOST_BYTES:
            raise ConfigError(f"{path} is larger than {MOST_BYTES >> 10} KiB")
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".json":
            values = json.loads(text, parse_float=Decimal)
        else:
            values = tomllib.loads(text, parse_float=Decimal)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, ArithmeticError, RecursionError) as error:
        kind = "JSON" if path.suffix == ".json" else "TOML"
        raise ConfigError(f"{path} is not {kind}: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path} does not hold a table")
    return values


class _Wrong(Exception):
    """What is wrong with a file, without its name."""


def _prices(values: Mapping[str, Any]) -> Prices:
    _only(values, {"model"}, "")
    models: dict[str, PricedModel] = {}
    taken: set[str] = set()
    for i, entry in enumerate(_list(values, "model", "")):
        model = _model(entry, f"model {i + 1}")
        for name in (model.name, *model.aliases):
            if name in taken:
                raise _Wrong(f"{name!r} is there twice")
            taken.add(name)
        models[model.name] = model
    return Prices(models)


def _model(entry: Any, where: str) -> PricedModel:
    _only(entry, {"name", "vendor", "aliases", "price"}, where)
    name = _text(entry, "name", where)
    aliases = _list(entry, "aliases", name) if "aliases" in entry else []
    if not all(isinstance(alias, str) for alias in aliases):
        raise _Wrong(f"{name}: aliases are not strings")
    prices = [
        _price(price, f"{name}, price {i + 1}")
        for i, price in enumerate(_list(entry, "price", name))
    ]
    earliest = datetime.min.replace(tzinfo=UTC)
    starts = [price.since or earliest for price in prices]
    if any(a >= b for a, b in pairwise(starts)):
        raise _Wrong(f"{name}: each price has to begin after the one before it")
    return PricedModel(name, _text(entry, "vendor", name), tuple(prices), tuple(aliases))


def _price(entry: Any, where: str) -> Price:
    known = {"from", "until", "hit", "miss", "output", "peak", "note", "source"}
    _only(entry, known, where)
    miss = _amount(entry, "miss", where)
    hit = _amount(entry, "hit", where) if "hit" in entry else miss
    rate = Rate(hit, miss, _amount(entry, "output", where))
    peak = _peak(entry["peak"], f"{where}, peak") if "peak" in entry else None
    price = Price(
        rate,
        since=_instant(entry, "from", where),
        until=_instant(entry, "until", where),
        peak=peak,
        note=_text(entry, "note", where, ""),
        source=_text(entry, "source", where, ""),
    )
    for value in (price.highest.hit, price.highest.miss, price.highest.output):
        _check(value, f"{where}: {value} at peak hours")
    return price


def _peak(entry: Any, where: str) -> Peak:
    _only(entry, {"factor", "hours", "days", "except"}, where)
    hours = []
    for text in _list(entry, "hours", where):
        match = _HOURS.fullmatch(text) if isinstance(text, str) else None
        start, end = (text[:5], text[6:]) if match else ("", "")
        if end == "24:00":
            end = "23:59:59.999999"
        if not match or not start < end or end.startswith("24"):
            raise _Wrong(f"{where}: {text!r} is no range of hours such as 01:00-04:00")
        hours.append((time.fromisoformat(start), time.fromisoformat(end)))
    days = _list(entry, "days", where) if "days" in entry else list(DAYS)
    if not all(day in DAYS for day in days):
        raise _Wrong(f"{where}: days are some of {', '.join(DAYS)}")
    holidays = _list(entry, "except", where) if "except" in entry else []
    return Peak(
        _amount(entry, "factor", where),
        tuple(hours),
        frozenset(DAYS.index(day) for day in days),
        frozenset(_day(day, where) for day in holidays),
    )


def _day(value: Any, where: str) -> date:
    try:
        day = date.fromisoformat(value) if isinstance(value, str) else value
    except ValueError:
        day = None
    if not isinstance(day, date) or isinstance(day, datetime):
        raise _Wrong(f"{where}: {value!r} is no date such as 2026-10-01")
    return day


def _instant(entry: Mapping[str, Any], key: str, where: str) -> datetime | None:
    """A date (its first moment) or a time with a zone, in UTC."""
    value = entry.get(key)
    if value is None:
        return None
    try:
        when = datetime.fromisoformat(value) if isinstance(value, str) else value
    except ValueError:
        when = None
    if isinstance(when, date) and not isinstance(when, datetime):
        return datetime.combine(when, time(), UTC)
    if isinstance(when, datetime) and when.tzinfo is None and when.time() == time():
        return when.replace(tzinfo=UTC)  # JSON: a date alone
    if not isinstance(when, datetime) or when.tzinfo is None:
        raise _Wrong(f"{where}: {key} = {value} is no date, nor a time that ends in Z")
    return when.astimezone(UTC)


def _amount(entry: Mapping[str, Any], key: str, where: str) -> Decimal:
    """A number, which may be written as a string."""
    value = entry.get(key)
    if value is None:
        raise _Wrong(f"{where}: {key} is missing")
    if isinstance(value, bool) or not isinstance(value, (int, Decimal, str)):
        raise _Wrong(f"{where}: {key} = {value!r} is no number")
    try:
        amount = Decimal(value)
    except ArithmeticError as error:
        raise _Wrong(f"{where}: {key} = {value!r} is no number") from error
    return _check(amount, f"{where}: {key} = {value}")


def _check(amount: Decimal, where: str) -> Decimal:
    if not amount.is_finite() or not 0 <= amount < 10**9:
        raise _Wrong(f"{where} is out of range")
    exponent = amount.normalize().as_tuple().exponent
    if isinstance(exponent, int) and exponent < -DECIMALS:
        raise _Wrong(f"{where} has more than {DECIMALS} decimals")
    return amount


_MISSING = object()


def _text(entry: Mapping[str, Any], key: str, where: str, default: Any = _MISSING) -> str:
    value = entry.get(key, default)
    if value is _MISSING:
        raise _Wrong(f"{where}: {key} is missing")
    if not isinstance(value, str) or (not value and default is _MISSING):
        raise _Wrong(f"{where}: {key} = {value!r} is no text")
    return value


def _list(entry: Mapping[str, Any], key: str, where: str) -> list[Any]:
    value = entry.get(key)
    prefix = f"{where}: " if where else ""
    if not isinstance(value, list) or not value:
        raise _Wrong(f"{prefix}{key} is missing or no list")
    return value


def _only(entry: Any, known: set[str], where: str) -> None:
    prefix = f"{where}: " if where else ""
    if not isinstance(entry, dict):
        raise _Wrong(f"{prefix}{entry!r} is no table")
    unknown = sorted(set(entry) - known)
    if unknown:
        raise _Wrong(f"{prefix}{unknown[0]} is unknown; known are {', '.join(sorted(known))}")
