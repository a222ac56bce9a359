"""Accounts with budgets: who holds which key, what it used, and whether it may go on."""

from __future__ import annotations

import hashlib
import hmac
import logging
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import ROUND_DOWN, Decimal
from threading import Lock
from typing import Any

from dsv4.chat.answer import Usage
from dsv4.errors import Dsv4Error, RequestError
from dsv4.pricing.compare import Work, compare
from dsv4.pricing.price import PricedModel, Prices, Tokens
from dsv4.server.accounts import unknown_key
from dsv4.server.ledger_store import Entry, Store, Used

MOST_DAYS = 31
"""Days that `usage` lists one by one."""

logger = logging.getLogger("dsv4.server")


@dataclass(frozen=True, slots=True)
class Holder:
    """Whoever holds a key.

    `budget`: USD it may use in all. `price`: the model as whose price its tokens are charged.
    `admin`: sees what all keys used.
    """

    name: str
    key: str = field(repr=False)
    budget: Decimal | None = None
    price: PricedModel | None = None
    requests_per_minute: int | None = None
    tokens_per_day: int | None = None
    admin: bool = False


class Ledger:
    """The accounts of a server, on a store that outlives it. Any thread may call it."""

    def __init__(
        self,
        holders: Iterable[Holder],
        store: Store,
        prices: Prices,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._holders = [(_digest(holder.key), holder) for holder in holders]
        self._store, self.prices, self.now = store, prices, now
        self._lock = Lock()
        self._spent: defaultdict[str, Decimal] = defaultdict(Decimal)
        self._today: defaultdict[tuple[str, str], int] = defaultdict(int)
        self._recent: defaultdict[str, deque[float]] = defaultdict(deque)
        for entry in store.entries():
            self._remember(entry)

    def identify(self, key: str | None) -> Keyholder:
        """The account of a key that may ask something now.

        Raises RequestError: 401 for a key nobody has, 402 for a spent budget, 429 for too many
        requests or tokens.
        """
        found = self.find(key)
        found.admit()
        return found

    def find(self, key: str | None) -> Keyholder:
        """The account of a key, spent or not. Raises RequestError (401)."""
        given = _digest(key or "")
        # All are compared, each in constant time: the answer's delay tells nothing.
        matches = [h for known, h in self._holders if hmac.compare_digest(known, given)]
        if not matches:
            raise unknown_key(key)
        return Keyholder(self, matches[0])

    def close(self) -> None:
        """Give the file up. Nothing may be charged any more."""
        self._store.close()

    def spent(self, name: str) -> Decimal:
        """USD that an account used."""
        with self._lock:
            return self._spent[name]

    def admit(self, holder: Holder) -> None:
        """Count a request. Raises RequestError if the account may not ask now."""
        if holder.budget is not None and self.spent(holder.name) >= holder.budget:
            raise RequestError("Insufficient Balance", status=402, code="invalid_request_error")
        with self._lock:
            most, day = holder.tokens_per_day, _day(self.now())
            if most is not None and self._today[holder.name, day] >= most:
                raise _too_much(f"the limit of {most} tokens per day is reached")
            limit = holder.requests_per_minute
            if limit is None:
                return
            recent, at = self._recent[holder.name], time.monotonic()
            while recent and recent[0] <= at - 60:
                recent.popleft()
            if len(recent) >= limit:
                raise _too_much(f"the limit of {limit} requests per minute is reached")
            recent.append(at)

    def note(self, holder: Holder, model: str, usage: Usage) -> None:
        """Charge a request. A disk that cannot be written is logged, and the budget still kept
        by this process."""
        when = self.now()
        tokens = Tokens(usage.cached, usage.prompt - usage.cached, usage.completion)
        price = None if holder.price is None else holder.price.at(when)
        cost = Decimal(0) if price is None else price.at(when).cost(tokens)
        entry = Entry(holder.name, _day(when), model, Used(1, tokens, usage.reasoning, cost))
        with self._lock:
            self._remember(entry)
        try:
            self._store.add(entry)
        except Dsv4Error as error:
            logger.error("a request of %s is not in the ledger: %s", holder.name, error)

    def _remember(self, entry: Entry) -> None:
        tokens = entry.used.tokens
        self._spent[entry.name] += entry.used.cost
        self._today[entry.name, entry.day] += tokens.hit + tokens.miss + tokens.output

    def usage(self, holder: Holder) -> dict[str, Any]:
        """What this account used, or every account if it is an admin's, as JSON."""
        seen = [h for _, h in self._holders] if holder.admin else [holder]
        entries = self._store.entries()
        names = {h.name for h in seen}
        return {
            "object": "usage",
            "currency": "USD",
            "prices_of": self.now().isoformat(timespec="seconds"),
            "keys": [self._of(h, [e for e in entries if e.name == h.name]) for h in seen],
            "total": self._sums([e for e in entries if e.name in names]),
        }

    def _of(self, holder: Holder, entries: list[Entry]) -> dict[str, Any]:
        days: defaultdict[str, list[Entry]] = defaultdict(list)
        for entry in entries:
            days[entry.day].append(entry)
        listed = sorted(days)[-MOST_DAYS:]
        return {
            "name": holder.name,
            "price": holder.price.name if holder.price else None,
            "budget": None if holder.budget is None else str(holder.budget),
            **self._sums(entries),
            "days": [{"day": day, **_counts(_sum(days[day]))} for day in listed],
        }

    def _sums(self, entries: list[Entry]) -> dict[str, Any]:
        """Totals, and what the same tokens cost elsewhere at today's off-peak prices."""
        used = _sum(entries)
        elsewhere = [
            {
                "model": one.model.name,
                "vendor": one.model.vendor,
                "cost": _text(one.price.rate.cost(used.tokens)),
            }
            for one in compare(self.prices, [Work(used.tokens, self.now())])
        ]
        return {**_counts(used), "elsewhere": elsewhere}


@dataclass(frozen=True, slots=True)
class Keyholder:
    """One account of a ledger, for one request."""

    ledger: Ledger
    holder: Holder

    @property
    def name(self) -> str:
        return self.holder.name

    def admit(self) -> None:
        """Raises RequestError (402, 429) if it may not ask anything now."""
        self.ledger.admit(self.holder)

    def charge(self, model: str, usage: Usage) -> None:
        self.ledger.note(self.holder, model, usage)

    def balance(self) -> dict[str, Any]:
        """As GET /user/balance shows it; no figures for an account without a budget."""
        budget = self.holder.budget
        if budget is None:
            return {"is_available": True, "balance_infos": []}
        left = max(budget - self.ledger.spent(self.name), Decimal(0))
        cents = str(left.quantize(Decimal("0.01"), ROUND_DOWN))
        info = {
            "currency": "USD",
            "total_balance": cents,
            "granted_balance": "0.00",
            "topped_up_balance": cents,
        }
        return {"is_available": left > 0, "balance_infos": [info]}

    def usage(self) -> dict[str, Any]:
        """As GET /usage shows it."""
        return self.ledger.usage(self.holder)


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode(errors="replace")).digest()


def _day(when: datetime) -> str:
    return when.astimezone(UTC).strftime("%Y-%m-%d")


def _too_much(message: str) -> RequestError:
    return RequestError(message, status=429, code="rate_limit_reached")


def _sum(entries: Iterable[Entry]) -> Used:
    return sum((entry.used for entry in entries), Used())


def _counts(used: Used) -> dict[str, Any]:
    tokens = used.tokens
    return {
        "requests": used.requests,
        "prompt_cache_hit_tokens": tokens.hit,
        "prompt_cache_miss_tokens": tokens.miss,
        "completion_tokens": tokens.output,
        "reasoning_tokens": used.reasoning,
        "cost": _text(used.cost),
    }


def _text(usd: Decimal) -> str:
    """Exact, never in powers of ten."""
    return f"{usd:f}"
