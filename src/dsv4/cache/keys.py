"""Names of finished blocks: a block's key follows from every token up to its end.

Entries depend on all earlier tokens, so equal keys mean equal blocks. A chain starts from what the
numbers depend on besides the tokens (weights, numerics) and from whose they are.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Sequence

from dsv4.model.blocks import BLOCK

DIGEST = 32
"""Bytes of a key."""


class Chain:
    """The keys of a growing sequence of ids. `salt`: nothing is shared between different ones."""

    def __init__(self, binding: bytes, salt: str) -> None:
        start = hashlib.blake2b(binding, digest_size=DIGEST, person=b"dsv4 kv chain")
        start.update(salt.encode("utf-8", "surrogatepass"))
        self._last = start.digest()
        self.keys: list[bytes] = []

    def extend(self, ids: Sequence[int], count: int) -> list[bytes]:
        """The keys of the first `count` blocks of `ids`, which begin with what was given before."""
        for i in range(len(self.keys), count):
            made = hashlib.blake2b(self._last, digest_size=DIGEST)
            made.update(array("q", ids[i * BLOCK : (i + 1) * BLOCK]).tobytes())
            self._last = made.digest()
            self.keys.append(self._last)
        return self.keys[:count]
