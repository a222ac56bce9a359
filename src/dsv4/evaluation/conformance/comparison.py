"""How far one variant's numbers are from another's, and how far they may be.

Shapes: T positions (or rows of another kind), X numbers of one position.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dsv4.evaluation.distance import BOUND

CHOICES = ("selection", "choice")
"""Parts that hold which entries or experts were chosen: what counts is how many are others."""

FLOAT32 = 1e-4
"""Same arithmetic, another order of float32 sums: less than 1e-6 in nano."""

SAME_ROUNDING = {"affinities": 1e-4, "affinities, large": 1e-4, "layer": 2e-2, "prediction": 2e-2}
SAME_ROUNDING_ELSEWHERE = 5e-3
"""The same roundings, another order of sums: a value on the edge of two roundings falls to either
side now and then. Whole layers have many roundings one behind the other."""

ROUNDED = {
    "affinities": 1e-2,
    "affinities, large": 1e-2,
    "index keys": 0.25,
    "layer": 0.15,
    "prediction": 0.15,
}
ROUNDED_ELSEWHERE = 0.1
"""`official` from `exact`. One rounding to e4m3 moves a number by up to 1/16, by about 1/40 on
average; a sublayer has two or three in a row, a layer twice that; index keys are e2m1 (1/4 at
most); the router sees bfloat16 (1/256)."""

BFLOAT16 = 3e-2
"""bfloat16 between operators and nothing quantised, as in transformers, from `exact`: a rounding
moves a number by 1/256 at most, a layer has some twenty."""

CHOICES_DIFFER = 0.005
"""Share of choices that equal arithmetic may take otherwise (ties)."""
ROUNDED_CHOICES = {"selection": 0.25, "choice": 0.05}
"""The same where scores are rounded. Measured in nano and a random model: 0.03 to 0.08 of the
entries (FP4 index vectors), up to 0.003 of the experts."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """`part` of a layer as `variant` computes it, from what `against` computes for the same inputs.

    `relative`: L2 norm of the difference over that of `against`; for choices, the share of
    those that `against` does not have. `worst`: the largest relative difference of one position,
    `at` it. `first`: the first position beyond `allowed`. `allowed`: what `relative` may be; None
    if it is only reported.
    """

    layer: str
    kind: str
    part: str
    variant: str
    against: str
    relative: float
    worst: float
    at: int
    first: int | None
    allowed: float | None

    @property
    def ok(self) -> bool:
        """Within bounds. A NaN is not."""
        return self.allowed is None or self.relative <= self.allowed


def relative(a_TX: Tensor, b_TX: Tensor) -> Tensor:
    """Relative difference of every position, `[T]` float64; infinite where a number is not finite
    in one alone."""
    a, b = a_TX.flatten(1).double(), b_TX.flatten(1).double()
    same = (a == b) | (a.isnan() & b.isnan())
    difference = torch.where(same, 0.0, a - b).norm(dim=1)
    scale = torch.where(b.isfinite(), b, 0.0).norm(dim=1)
    found = torch.where(difference == 0, 0.0, difference / scale.clamp_min(1e-300))
    return torch.where(found.isnan(), math.inf, found)


def overall(a_TX: Tensor, b_TX: Tensor) -> float:
    """Relative L2 difference of all positions together."""
    return float(relative(a_TX.flatten()[None], b_TX.flatten()[None]))


def measure(part: str, a_TX: Tensor, b_TX: Tensor) -> float:
    """The one number by which a part is judged."""
    if part in CHOICES:
        return float((a_TX & ~b_TX).sum() / b_TX.sum().clamp_min(1))
    return overall(a_TX, b_TX)


def allowed(part: str, how: str, official: float | None = None, *, hashed: bool = False) -> float:
    """What the difference of a part may be.

    `how`: `float32` (same arithmetic), `kernels` (same roundings), `bfloat16` (from `exact`),
    `rounded` (`official` from `exact`) or `fast` (from `exact`; at most BOUND times what `official`
    was measured at, since the roundings of both are of one kind). `hashed`: experts follow from
    token ids alone, so no rounding excuses another choice.
    """
    if part in CHOICES:
        if part == "choice" and hashed:
            return 0.0
        return CHOICES_DIFFER if how in ("float32", "kernels") else ROUNDED_CHOICES[part]
    if how == "float32":
        return FLOAT32
    if how == "kernels":
        return SAME_ROUNDING.get(part, SAME_ROUNDING_ELSEWHERE)
    if how == "bfloat16":
        return BFLOAT16
    bound = ROUNDED.get(part, ROUNDED_ELSEWHERE)
    if how == "fast" and official is not None:
        # Where there is nothing to round, sums are still taken in another order.
        return min(bound, max(FLOAT32, BOUND * official))
    return bound


def compare(
    layer: str,
    kind: str,
    part: str,
    variant: str,
    against: str,
    how: str,
    ours: Mapping[str, Tensor],
    truth: Mapping[str, Tensor],
    bound: float,
    dropping: int,
    places: Sequence[int] | None = None,
) -> Comparison:
    """Compare a part of `ours` (part -> numbers) with the same of `truth`.

    `dropping`: prompt length from which the indexer drops entries. `places`: positions of the rows;
    0, 1, ... unless given.
    """
    a, b = ours[part], truth[part]
    judged = torch.ones(len(b), dtype=torch.bool)
    rounded = how not in ("float32", "kernels")
    if rounded and kind == "CSA" and part in ("attention", "steps", "layer"):
        # Where the indexer drops entries, of nearly equal ones either may go.
        positions = torch.arange(len(b)) if places is None else torch.tensor(places)
        judged = positions < dropping - 1
    if part.startswith("experts") or part == "layer":
        choice = "choice, large" if part == "experts, large" else "choice"
        # A golden pack has a layer's first positions and the choices at these and at others.
        judged &= (ours[choice] == truth[choice]).all(1)[: len(b)]
    each = relative(a, b) if part not in CHOICES else (a != b).any(1).double()
    beyond = each > bound
    first = int(beyond.int().argmax()) if bool(beyond.any()) else None
    value = measure(part, a[judged], b[judged]) if bool(judged.any()) else 0.0
    at = int(each.argmax())
    if places is not None:
        at, first = places[at], places[first] if first is not None else None
    return Comparison(
        layer, kind, part, variant, against, value, float(each.max()), at, first, bound
    )
