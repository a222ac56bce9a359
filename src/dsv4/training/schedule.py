"""What changes over a run: learning rate, MTP loss weight, batch size.

V4 (report, section 4.2.2): linear warm-up, a constant rate for most of training, cosine to a
tenth at the end; MTP loss weight 0.3, then 0.1 once the decay starts; batch ramped from small.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from dsv4.errors import UsageError


@dataclass(frozen=True)
class Schedule:
    """Values of a run of `steps` optimizer steps; step counts from 0.

    lr: peak learning rate. warmup: steps of linear warm-up. decay: share of the steps spent in
    the cosine. floor: final rate as a share of the peak. accumulate: micro-batches per step in
    the end; the count grows linearly from 1 over the first `ramp` share of the steps.
    """

    steps: int
    lr: float = 1e-3
    warmup: int = 20
    decay: float = 0.2
    floor: float = 0.1
    accumulate: int = 1
    ramp: float = 0.0

    def __post_init__(self) -> None:
        if self.steps < 1 or self.accumulate < 1:
            raise UsageError("a schedule needs at least one step and one micro-batch per step")
        if not (0 <= self.decay <= 1 and 0 <= self.floor <= 1 and 0 <= self.ramp <= 1):
            raise UsageError("decay, floor and ramp are shares between 0 and 1")

    @property
    def decay_start(self) -> int:
        """First step of the cosine."""
        return self.steps - round(self.decay * self.steps)

    def rate(self, step: int) -> float:
        """Learning rate of a step."""
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        if step < self.decay_start:
            return self.lr
        done = (step - self.decay_start + 1) / (self.steps - self.decay_start)
        return self.lr * (self.floor + (1 - self.floor) * (1 + math.cos(math.pi * done)) / 2)

    def mtp_weight(self, step: int) -> float:
        """Weight of the MTP loss at a step."""
        return 0.3 if step < self.decay_start else 0.1

    def micro_batches(self, step: int) -> int:
        """Micro-batches whose gradients a step sums."""
        grown = self.ramp * self.steps
        if step >= grown:
            return self.accumulate
        return max(1, math.ceil(self.accumulate * (step + 1) / grown))
