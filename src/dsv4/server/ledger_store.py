"""What every key has used, on disk: one small SQLite file.

A request is one transaction, written before the next begins, so a process that is killed loses
nothing it noted; a machine that loses its power loses the last moments and never the file
(write-ahead log). One process has the file at a time.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from threading import Lock

from dsv4.errors import ConfigError
from dsv4.pricing.price import Tokens

VERSION = 1
PER_USD = 10**12
"""Costs are kept as whole millionths of a millionth of a dollar, as prices have six decimals."""

_TABLE = """
create table if not exists usage (
    name text, day text, model text,
    requests integer not null, hit integer not null, miss integer not null,
    output integer not null, reasoning integer not null, cost integer not null,
    primary key (name, day, model)
) without rowid
"""
_ADD = """
insert into usage values (?, ?, ?, ?, ?, ?, ?, ?, ?)
on conflict do update set
    requests = requests + excluded.requests, hit = hit + excluded.hit,
    miss = miss + excluded.miss, output = output + excluded.output,
    reasoning = reasoning + excluded.reasoning, cost = cost + excluded.cost
"""


@dataclass(frozen=True, slots=True)
class Used:
    """Requests, their tokens (`reasoning` is part of the output) and their cost in USD."""

    requests: int = 0
    tokens: Tokens = field(default_factory=Tokens)
    reasoning: int = 0
    cost: Decimal = Decimal(0)

    def __add__(self, other: Used) -> Used:
        return Used(
            self.requests + other.requests,
            self.tokens + other.tokens,
            self.reasoning + other.reasoning,
            self.cost + other.cost,
        )


@dataclass(frozen=True, slots=True)
class Entry:
    """What one key used on one day (`2026-08-20`, UTC) under one name of the model."""

    name: str
    day: str
    model: str
    used: Used


class Store:
    """The file. Any thread may call it.

    Raises ConfigError if it is no ledger, is in use by another server, or cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self._lock = Lock()
        self._path = path
        with self._explained():
            self._file = sqlite3.connect(path, timeout=1, check_same_thread=False)
            # Held until it is closed: two servers would each spend the same budget.
            self._file.execute("pragma locking_mode = exclusive")
            self._file.execute("pragma journal_mode = wal")
            self._file.execute("pragma synchronous = normal")
            (version,) = self._file.execute("pragma user_version").fetchone()
            if version not in (0, VERSION):
                raise ConfigError(f"{path} is of version {version}, this program knows {VERSION}")
            with self._file:
                self._file.execute(_TABLE)
                self._file.execute(f"pragma user_version = {VERSION}")

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            locked = "locked" in str(error)
            raise ConfigError(
                f"cannot use the ledger {self._path}: {error}",
                "another server has it" if locked else "give it another path, or mend its folder",
            ) from error

    def add(self, entry: Entry) -> None:
        """Note more use; it is on its way to the disk when this returns."""
        used, tokens = entry.used, entry.used.tokens
        cost = int(used.cost * PER_USD)
        assert cost == used.cost * PER_USD, used
        row = (used.requests, tokens.hit, tokens.miss, tokens.output, used.reasoning, cost)
        with self._lock, self._explained(), self._file:
            self._file.execute(_ADD, (entry.name, entry.day, entry.model, *row))

    def entries(self) -> list[Entry]:
        """All that is noted, by name and day."""
        with self._lock, self._explained():
            rows = self._file.execute("select * from usage order by name, day, model").fetchall()
        return [
            Entry(name, day, model, Used(requests, Tokens(*counts), reasoning, _usd(cost)))
            for name, day, model, requests, *counts, reasoning, cost in rows
        ]

    def close(self) -> None:
        with self._lock:
            self._file.close()


def _usd(cost: int) -> Decimal:
    return Decimal(cost) / PER_USD
