"""Who asks: keys, the accounts behind them, and what these are charged."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from dsv4.chat.answer import Usage
from dsv4.errors import RequestError, UsageError

MOST_FILE_BYTES = 1 << 20


class Account(Protocol):
    """Whoever pays for a request."""

    @property
    def name(self) -> str:
        """Tells accounts apart, in fair shares and logs; says nothing of the key."""

    def charge(self, model: str, usage: Usage) -> None:
        """Note what a request used. Called once for each that reached the model."""

    def balance(self) -> dict[str, Any]:
        """What is left, as GET /user/balance shows it."""


class Accounts(Protocol):
    """All accounts of a server."""

    def identify(self, key: str | None) -> Account:
        """The account of a key that asks something now; None: the request brought none.

        Raises RequestError: 401 for a key nobody has, 402 for an account with nothing left, 429
        for one that asks too often.
        """

    def find(self, key: str | None) -> Account:
        """The account of a key, whether or not it may ask now. Raises RequestError (401)."""


@dataclass(frozen=True, slots=True)
class Unlimited:
    """An account that is never charged."""

    name: str

    def charge(self, model: str, usage: Usage) -> None:
        pass

    def balance(self) -> dict[str, Any]:
        return {"is_available": True, "balance_infos": []}


@dataclass(frozen=True)
class Keys:
    """Accounts without budgets, one per key. Without any key, everybody is let in."""

    keys: tuple[str, ...] = field(default=(), repr=False)

    def identify(self, key: str | None) -> Account:
        return self.find(key)

    def find(self, key: str | None) -> Account:
        if not self.keys:
            return Unlimited("")
        given = (key or "").encode(errors="replace")
        # All are compared, each in constant time: the answer's delay tells nothing.
        matches = [known for known in self.keys if hmac.compare_digest(known.encode(), given)]
        if not matches:
            raise unknown_key(key)
        return Unlimited(key_name(matches[0]))


def key_name(key: str) -> str:
    """A name for whoever holds a key, from which the key cannot be told."""
    return "key-" + hashlib.sha256(key.encode()).hexdigest()[:8]


def unknown_key(key: str | None) -> RequestError:
    """The refusal of a key that nobody has."""
    return RequestError(
        "Authentication Fails: the request brings no API key"
        if key is None
        else "Authentication Fails: the API key is unknown here",
        status=401,
        code="invalid_api_key",
    )


def read_keys(given: Iterable[str], file: Path | None) -> tuple[str, ...]:
    """Keys from the command line and a file with one per line (`#` begins a comment).

    Raises UsageError for a file that cannot be read or a key that could not be sent.
    """
    keys = list(given)
    if file is not None:
        try:
            if file.stat().st_size > MOST_FILE_BYTES:
                raise UsageError(f"{file} is larger than {MOST_FILE_BYTES >> 20} MiB")
            lines = file.read_text(encoding="utf-8").splitlines()
        except (OSError, ValueError) as error:
            raise UsageError(f"can not read the keys in {file}: {error}") from error
        stripped = [line.partition("#")[0].strip() for line in lines]
        found = [line for line in stripped if line]
        if not found:
            raise UsageError(f"{file} holds no key", "one key per line")
        keys += found
    for key in keys:
        if not (key.isascii() and key.isprintable()) or " " in key or not key:
            raise UsageError("an API key is not printable ASCII without spaces")
    return tuple(dict.fromkeys(keys))
