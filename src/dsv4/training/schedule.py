"""What changes over a run: learning rate, MTP weight, batch size, row length, how CSA layers read.

V4 (report, section 4.2.2): linear warm-up, a constant rate for most of training, cosine to a
tenth at the end; MTP loss weight 0.3, then 0.1 once the decay starts; batch ramped from small;
rows of 4K, then 16K, 64K, 1M; attention over all compressed entries first, then a short warm-up
of the indexers alone, then over the entries they choose.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from dsv4.errors import UsageError

Phase = Literal["dense", "indexer", "sparse"]


@dataclass(frozen=True)
class Schedule:
    """Values of a run of `steps` optimizer steps; step counts from 0.

    lr: peak learning rate. warmup: steps of linear warm-up. decay: share of the steps spent in
    the cosine. floor: final rate as a share of the peak. accumulate: micro-batches per step in
    the end; the count grows linearly from 1 over the first `ramp` share of the steps.
    mtp: weight of the MTP loss before and after the decay starts.
    lengths: (share of the steps, longest row) of the stages with shorter rows, in order; after
    the last of them rows have their full length.
    dense: share of the steps in which CSA layers read all their entries. 0: the indexers choose
    from the start, as in V4.1; 1: never, which leaves them untrained.
    indexer_steps: steps after the dense ones in which the indexers alone learn.
    indexer_lr: learning rate of those steps; None follows the rest of the schedule.
    """

    steps: int
    lr: float = 1e-3
    warmup: int = 20
    decay: float = 0.2
    floor: float = 0.1
    accumulate: int = 1
    ramp: float = 0.0
    mtp: tuple[float, float] = (0.3, 0.1)
    lengths: tuple[tuple[float, int], ...] = ()
    dense: float = 0.0
    indexer_steps: int = 0
    indexer_lr: float | None = None

    def __post_init__(self) -> None:
        if self.steps < 1 or self.accumulate < 1:
            raise UsageError("a schedule needs at least one step and one micro-batch per step")
        rates = (self.lr, self.lr if self.indexer_lr is None else self.indexer_lr)
        if not all(0 <= rate < math.inf for rate in rates):
            raise UsageError(f"a learning rate of {rates[0]:g} ({rates[1]:g} for indexers)")
        shares = (self.decay, self.floor, self.ramp, self.dense)
        if not all(0 <= share <= 1 for share in shares):
            raise UsageError("decay, floor, ramp and dense are shares between 0 and 1")
        if self.indexer_steps < 0 or self.dense_steps + self.indexer_steps > self.steps:
            raise UsageError(
                f"{self.dense_steps} dense and {self.indexer_steps} indexer steps do not fit into "
                f"{self.steps}",
                "lower `dense` to leave room for the indexers",
            )
        ends, rows = [share for share, _ in self.lengths], [row for _, row in self.lengths]
        rising = sorted(set(ends)) == ends and sorted(rows) == rows
        if not rising or not all(0 < end < 1 for end in ends) or not all(row > 1 for row in rows):
            raise UsageError(
                f"the length stages {self.lengths} do not rise",
                "pairs of (share of the steps, longest row), both growing, e.g. ((0.6, 512),)",
            )

    @property
    def decay_start(self) -> int:
        """First step of the cosine."""
        return self.steps - round(self.decay * self.steps)

    @property
    def dense_steps(self) -> int:
        """Steps in which CSA layers read all their entries and everything learns."""
        return round(self.dense * self.steps)

    def rate(self, step: int) -> float:
        """Learning rate of a step."""
        if self.indexer_lr is not None and self.phase(step) == "indexer":
            return self.indexer_lr
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        if step < self.decay_start:
            return self.lr
        done = (step - self.decay_start + 1) / (self.steps - self.decay_start)
        return self.lr * (self.floor + (1 - self.floor) * (1 + math.cos(math.pi * done)) / 2)

    def mtp_weight(self, step: int) -> float:
        """Weight of the MTP loss at a step."""
        return self.mtp[step >= self.decay_start]

    def micro_batches(self, step: int) -> int:
        """Micro-batches whose gradients a step sums."""
        grown = self.ramp * self.steps
        if step >= grown:
            return self.accumulate
        return max(1, math.ceil(self.accumulate * (step + 1) / grown))

    def stage(self, step: int) -> int:
        """Which row length a step has: an index into `lengths`, or its size for full rows."""
        return sum(step >= round(share * self.steps) for share, _ in self.lengths)

    def phase(self, step: int) -> Phase:
        """How CSA layers read, and what learns."""
        if step < self.dense_steps:
            return "dense"
        return "indexer" if step < self.dense_steps + self.indexer_steps else "sparse"
