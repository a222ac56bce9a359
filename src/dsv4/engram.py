"""What an Engram's tables are made of: sizes, prime moduli and hash multipliers.

Engram is a memory looked up by the last tokens (arXiv 2601.07372; V4.1-Flash ships it without
the convolution). Every suffix n-gram of canonical token ids, n = 2..N, is hashed K times; each
hash names a row of a table, and the rows of a position, side by side, are what it remembers.
This module is plain integers: the lookup is `ops.ngram_rows`, the layer `model.engram`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import accumulate
from typing import Any

from dsv4.errors import ConfigError

PREFIX = "engram_"
CONV_KERNEL = 4
"""Taps of the short convolution in the paper's form."""

_LARGEST_ROWS = 1 << 40
_MOST_HASHES = 4096


@dataclass(frozen=True)
class EngramConfig:
    """The Engram of a model; in `config.json` every key has the prefix `engram_`, as in V4.1.

    layer_ids: layers (from 0) that have one, ascending. max_ngram_size: N, the longest n-gram.
    n_heads: K, hashes per n-gram length. head_dim: channels of a row. vocab_size: rows per hash,
    at least (the next unused primes are taken). compressed_vocab_size: V', how many canonical ids
    there are. pad_id: token that stands before the first one. seed: of the multipliers.
    conv: the paper's form with its short convolution; False is V4.1's.
    multipliers: one row of N odd integers per layer; empty means drawn from `seed`, which relies
    on NumPy's generator never changing, so a checkpoint writes them down.
    """

    layer_ids: tuple[int, ...]
    max_ngram_size: int
    n_heads: int
    head_dim: int
    vocab_size: int
    compressed_vocab_size: int
    pad_id: int = 2
    seed: int = 0
    conv: bool = False
    multipliers: tuple[tuple[int, ...], ...] = ()

    def __post_init__(self) -> None:
        ids = self.layer_ids
        if not ids or list(ids) != sorted(set(ids)) or ids[0] < 0:
            raise _fail("layer_ids", list(ids), "layer numbers from 0, ascending")
        for name, low, high in (
            ("max_ngram_size", 2, 16),
            ("n_heads", 1, 64),
            ("head_dim", 1, 1 << 16),
            ("vocab_size", 1, _LARGEST_ROWS),
            ("compressed_vocab_size", 1, 1 << 31),
            ("pad_id", 0, 1 << 31),
            ("seed", 0, 1 << 62),
        ):
            value = getattr(self, name)
            if type(value) is not int or not low <= value <= high:
                raise _fail(name, value, f"an integer from {low} to {high}")
        if type(self.conv) is not bool:
            raise _fail("conv", self.conv, "true or false")
        if len(ids) * self.hashes > _MOST_HASHES:  # each needs a prime, which takes time to find
            raise _fail("n_heads", self.n_heads, f"at most {_MOST_HASHES} hashes in all layers")
        if not self.multipliers:
            object.__setattr__(self, "multipliers", tuple(map(self._drawn, ids)))
        bound = (1 << 63) // self.compressed_vocab_size
        if len(self.multipliers) != len(ids) or any(
            len(row) != self.max_ngram_size or not all(0 < a <= bound and a % 2 for a in row)
            for row in self.multipliers
        ):
            raise _fail(
                "multipliers", "...", f"{self.max_ngram_size} odd integers for each layer, small "
                "enough that a canonical id times one fits 63 bits"
            )  # fmt: skip

    @property
    def hashes(self) -> int:
        """R, rows that a position reads from the table of a layer: (N - 1) K."""
        return (self.max_ngram_size - 1) * self.n_heads

    @property
    def width(self) -> int:
        """W, channels of what a position reads: R times `head_dim`."""
        return self.hashes * self.head_dim

    @property
    def lookback(self) -> int:
        """Earlier tokens that the hashes of a position depend on."""
        return self.max_ngram_size - 1

    @property
    def convolved(self) -> int:
        """Earlier tokens that the convolution of a layer sees."""
        return (CONV_KERNEL - 1) * self.max_ngram_size if self.conv else 0

    @cached_property
    def primes(self) -> tuple[tuple[int, ...], ...]:
        """Moduli of every layer, by (n-gram length, head): rows of the parts of its table.

        Each hash takes the next prime that no other hash of any layer has, from `vocab_size` on.
        With a `vocab_size` of 1 all hashes give row 0: the control of an experiment.
        """
        if self.vocab_size == 1:
            return ((1,) * self.hashes,) * len(self.layer_ids)
        return _primes(len(self.layer_ids), self.max_ngram_size - 1, self.n_heads, self.vocab_size)

    @cached_property
    def offsets(self) -> tuple[tuple[int, ...], ...]:
        """Where each of those parts begins in the table of its layer."""
        return tuple(tuple(accumulate(row[:-1], initial=0)) for row in self.primes)

    @property
    def rows(self) -> tuple[int, ...]:
        """Rows of the table of each layer."""
        return tuple(map(sum, self.primes))

    def first_layers(self, layers: int) -> EngramConfig | None:
        """What is left of it in the first layers of its model."""
        kept = tuple(layer for layer in self.layer_ids if layer < layers)
        multipliers = self.multipliers[: len(kept)]
        return dataclasses.replace(self, layer_ids=kept, multipliers=multipliers) if kept else None

    def index(self, layer: int) -> int | None:
        """Which of the tables belongs to `layer`, if any does."""
        return self.layer_ids.index(layer) if layer in self.layer_ids else None

    def to_json(self) -> dict[str, Any]:
        """The keys of `config.json`."""
        values = dataclasses.asdict(self)
        values["layer_ids"] = list(self.layer_ids)
        values["multipliers"] = [list(row) for row in self.multipliers]
        values["num_embeddings"] = list(self.rows)
        return {PREFIX + name: value for name, value in values.items()}

    def _drawn(self, layer: int) -> tuple[int, ...]:
        """N random odd multipliers; an id times one stays below 2^63."""
        import numpy as np

        draw = np.random.default_rng(self.seed + 10007 * layer)
        bound = max(1, ((1 << 63) - 1) // self.compressed_vocab_size // 2)
        return tuple(int(r) * 2 + 1 for r in draw.integers(0, bound, self.max_ngram_size))


def from_json(values: Mapping[str, Any]) -> EngramConfig | None:
    """The Engram that the `engram_` keys of a `config.json` describe; None without any.

    Raises ConfigError for a key nobody knows, a missing one, a wrong value, or table sizes in
    `engram_num_embeddings` that are not those of the hashes.
    """
    given = {key.removeprefix(PREFIX): value for key, value in values.items()}
    if not given:
        return None
    sizes = given.pop("num_embeddings", None)
    rows_per_hash = given.get("vocab_size")
    if isinstance(rows_per_hash, list) and len(set(map(repr, rows_per_hash))) == 1:
        lengths = given.get("max_ngram_size")
        if type(lengths) is int and len(rows_per_hash) != lengths - 1:
            raise _fail("vocab_size", rows_per_hash, "one for each n of the n-grams")
        given["vocab_size"] = rows_per_hash[0]
    if "pad_token_id" in given:  # what some call it
        pad = given.pop("pad_token_id")
        if given.setdefault("pad_id", pad) != pad:
            raise _fail("pad_token_id", pad, f"{PREFIX}pad_id, {given['pad_id']!r}")
    fields = {field.name: field for field in dataclasses.fields(EngramConfig)}
    for name in given:
        if name not in fields:
            raise _fail(name, given[name], f"one of {', '.join(fields)} after {PREFIX!r}")
    for name, field in fields.items():
        if name not in given and field.default is dataclasses.MISSING:
            raise ConfigError(f"config: {PREFIX}{name} is missing", "Engram needs all its sizes")
    if not _is_integers(given["layer_ids"]):
        raise _fail("layer_ids", given["layer_ids"], "a list of layer numbers")
    given["layer_ids"] = tuple(given["layer_ids"])
    rows = given.get("multipliers", [])
    if not isinstance(rows, list | tuple) or not all(map(_is_integers, rows)):
        raise _fail("multipliers", "...", "a list of integers for each layer")
    given["multipliers"] = tuple(map(tuple, rows))
    config = EngramConfig(**given)
    if sizes is not None and sizes != list(config.rows):
        raise _fail("num_embeddings", sizes, f"{list(config.rows)}, the sums of the hashes' primes")
    return config


def _is_integers(values: Any) -> bool:
    return (
        isinstance(values, list | tuple)
        and len(values) <= 1024
        and all(type(value) is int for value in values)
    )


def _fail(name: str, value: object, allowed: str) -> ConfigError:
    return ConfigError(f"config: {PREFIX}{name} = {value!r} is not valid; allowed: {allowed}")


@lru_cache(maxsize=16)
def _primes(layers: int, lengths: int, heads: int, base: int) -> tuple[tuple[int, ...], ...]:
    """Per layer and n-gram length the search begins anew at `base`; no prime is taken twice."""
    taken: set[int] = set()
    result = []
    for _ in range(layers):
        row = []
        for _ in range(lengths):
            candidate = base - 1
            for _ in range(heads):
                candidate += 1
                while candidate in taken or not _is_prime(candidate):
                    candidate += 1
                taken.add(candidate)
                row.append(candidate)
        result.append(tuple(row))
    return tuple(result)


def _is_prime(n: int) -> bool:
    """Miller-Rabin with bases that decide every n below 3.3e24."""
    small = (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41)
    if n < 2:
        return False
    for p in small:
        if n % p == 0:
            return n == p
    odd, twos = n - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    for a in small:
        x = pow(a, odd, n)
        if x in (1, n - 1):
            continue
        for _ in range(twos - 1):
            x = x * x % n
            if x == n - 1:
                break
        else:
            return False
    return True
