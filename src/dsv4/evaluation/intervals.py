"""Means with 95 % confidence intervals. Resampling is seeded: equal data, equal intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

Z = 1.959964
"""Standard deviations around the mean that hold 95 % of a normal distribution."""

RESAMPLES = 2000


class Estimate(NamedTuple):
    """A mean and the ends of its 95 % confidence interval."""

    mean: float
    low: float
    high: float


def wilson(right: float, count: int) -> Estimate:
    """The share of `right` among `count` trials (Wilson 1927); stays inside [0, 1]. A trial that is
    several answers can be right in part."""
    if not count:
        return Estimate(math.nan, 0.0, 1.0)
    share, z2 = right / count, Z * Z / count
    middle = (share + z2 / 2) / (1 + z2)
    half = Z * math.sqrt(share * (1 - share) / count + z2 / (4 * count)) / (1 + z2)
    return Estimate(share, max(0.0, middle - half), min(1.0, middle + half))


def mean(values: Sequence[float]) -> Estimate:
    """The mean: of zeros and ones by Wilson, of other numbers by bootstrap."""
    if all(value in (0, 1) for value in values):
        return wilson(round(sum(values)), len(values))
    return ratio(values, [1.0] * len(values))


def ratio(parts: Sequence[float], wholes: Sequence[float]) -> Estimate:
    """Sum of `parts` over sum of `wholes`; the pairs are resampled together."""
    above, below = np.asarray(parts, np.float64), np.asarray(wholes, np.float64)
    estimate = float(above.sum() / below.sum())
    if len(above) < 2:
        return Estimate(estimate, math.nan, math.nan)
    picks = np.random.default_rng(0).integers(len(above), size=(RESAMPLES, len(above)))
    drawn = above[picks].sum(1) / below[picks].sum(1)
    low, high = np.quantile(drawn, (0.025, 0.975))
    return Estimate(estimate, float(low), float(high))


def difference(first: Sequence[float], second: Sequence[float]) -> Estimate:
    """How much larger the mean of `first` is; number i of both belongs to the same question."""
    gaps = [a - b for a, b in zip(first, second, strict=True)]
    return ratio(gaps, [1.0] * len(gaps))
