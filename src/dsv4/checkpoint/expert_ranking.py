"""Which experts to keep when not all fit: those used most, lately.

The policy was chosen by replaying what the bundled model routes (4,451 tokens of chat, and of prose
and code from this repository; `benchmarks/expert_cache.py policies`). Hits in % of requests, for
caches of 10, 30, 50, 70 and 90 % of all experts:

| policy                                             |  10 % |  30 % |  50 % |  70 % |  90 % |
|----------------------------------------------------|-------|-------|-------|-------|-------|
| uses fade, half-life 64 tokens (this)              |  33.2 |  58.2 |  77.4 |  92.0 |  98.6 |
| uses fade, half-life 1024 tokens                   |  31.4 |  55.9 |  75.8 |  91.5 |  98.4 |
| 2Q                                                 |  24.3 |  54.7 |  73.7 |  88.6 |  97.8 |
| least recently used                                |   0.0 |  53.1 |  73.7 |  89.3 |  98.3 |
| least often used since it came                     |  13.9 |  39.5 |  62.9 |  85.5 |  96.3 |
| random                                             |  15.2 |  47.8 |  69.5 |  85.5 |  96.2 |
| fading uses, the same number of slots per layer    |     - |  58.8 |  73.5 |  85.1 |  94.7 |
| the best there could be (it knows the future)      |  46.4 |  76.4 |  89.4 |  96.3 |  99.3 |

Uses of experts that are not in memory count too: that is what tells a newcomer from a regular.
The least recently used one is the worst to evict where a token's layers fill the cache: it is just
the one whose turn comes next.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from math import inf, log2

HALF_LIFE = 64
"""Tokens after which a use counts half."""


@dataclass(slots=True)
class Ranking:
    """How much each expert was used: a count in which old uses fade. `half_life` is in steps.

    Ranks are base-2 logarithms of the counts, brought forward to a common time: so a rank
    changes only when its expert is used. An expert that never was has the rank -inf.
    """

    half_life: float
    now: float = 0.0
    ranks: dict[Hashable, float] = field(default_factory=dict)

    def use(self, keys: Iterable[Hashable]) -> None:
        """Count one use of each, one step after the last call."""
        self.now += 1
        recent = self.now / self.half_life
        for key in keys:
            old = self[key]
            self.ranks[key] = max(recent, old) + log2(1 + 2 ** -abs(recent - old))

    def __getitem__(self, key: Hashable) -> float:
        return self.ranks.get(key, -inf)
