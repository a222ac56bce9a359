"""Amounts and prices as they are given on a command line."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dsv4.errors import UsageError

if TYPE_CHECKING:
    from dsv4.pricing.price import Prices

LimitCost = Annotated[
    str | None,
    typer.Option(
        "--limit-cost",
        help="What all results together may cost, earlier runs too.",
        metavar="USD",
    ),
]
MorePrices = Annotated[
    Path | None,
    typer.Option(
        "--prices", help="More prices: a TOML or JSON file (docs/accounts.md).", metavar="FILE"
    ),
]


def limit_of(text: str | None) -> Decimal | None:
    """The value of --limit-cost. Raises UsageError if it is no amount."""
    if text is None:
        return None
    try:
        value = Decimal(text.strip().removeprefix("$"))
    except InvalidOperation:
        value = Decimal(-1)
    if not value.is_finite() or value < 0:
        raise UsageError(f"--limit-cost {text!r} is no amount of USD", "such as 2.50")
    return value


def price_table(more: Path | None) -> Prices:
    """All prices, those of a file of the user's own among them."""
    from dsv4.pricing.file import built_in, read_prices

    return built_in() if more is None else built_in().joined(read_prices(more))
