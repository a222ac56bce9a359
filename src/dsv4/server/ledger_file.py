"""The file of keys: who may ask, for how much, and where that is noted."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from dsv4.errors import ConfigError, UsageError
from dsv4.pricing.file import built_in, read_prices, read_table
from dsv4.pricing.price import PricedModel, Prices
from dsv4.server.ledger import Holder, Ledger
from dsv4.server.ledger_store import Store

HINT = "docs/accounts.md describes the file of keys"

Budget = Annotated[Decimal, Field(ge=0, lt=10**9, strict=False)]
Limit = Annotated[int, Field(ge=1)]
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.@-]{1,64}$")]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class _Key(_Strict):
    name: Name
    key: Annotated[str, StringConstraints(pattern=r"^[!-~]{8,512}$")] = Field(repr=False)
    budget: Budget | None = None
    price: str | None = None
    requests_per_minute: Limit | None = None
    tokens_per_day: Limit | None = None
    admin: bool = False


class _File(_Strict):
    ledger: str = "ledger.sqlite3"
    price: str | None = None
    prices: str | None = None
    key: Annotated[list[_Key], Field(min_length=1)]


def open_ledger(path: Path) -> Ledger:
    """The ledger of a file of keys; the paths in it start at its folder.

    Raises ConfigError, which names the file and the entry, and never a key.
    """
    file = _read(path)
    prices = built_in()
    if file.prices is not None:
        prices = prices.joined(read_prices(path.parent / file.prices))
    holders = [_holder(key, file.price, prices, path) for key in file.key]
    for kind in ("name", "key"):
        values = [getattr(holder, kind) for holder in holders]
        if len(set(values)) < len(values):
            raise ConfigError(f"{path}: two entries have the same {kind}", HINT)
    return Ledger(holders, Store(path.parent / file.ledger), prices)


def _read(path: Path) -> _File:
    values: dict[str, Any] = read_table(path)
    try:
        return _File.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"{path}: {where}: {first['msg']}", HINT) from error


def _holder(key: _Key, default: str | None, prices: Prices, path: Path) -> Holder:
    price: PricedModel | None = None
    name = key.price or default
    try:
        price = None if name is None else prices.find(name)
    except UsageError as error:
        raise ConfigError(f"{path}: {key.name}: {error}", error.hint) from error
    if key.budget is not None and price is None:
        raise ConfigError(
            f"{path}: {key.name} has a budget and no price", 'such as price = "deepseek-v4-flash"'
        )
    return Holder(
        key.name,
        key.key,
        key.budget,
        price,
        key.requests_per_minute,
        key.tokens_per_day,
        key.admin,
    )
