"""How likely it is that a difference between two groups of answers is none."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from dsv4.evaluation.intervals import Estimate, mean

SHUFFLES = 20_000
SUSPICIOUS = 0.01
"""Chance below which a difference is looked at again, with other prompts."""
CONFIRMED = 0.001
"""Chance, in that second look alone, below which it is reported: both together make one false
alarm in 100,000 comparisons."""


def lower(first: Sequence[float], second: Sequence[float]) -> float:
    """The chance that the mean of `first` is so much lower than that of `second` by the luck of
    who is in which group: one-sided, by shuffling them (seeded); 1 / 20,001 at least."""
    if not first or not second or sum(first) * len(second) >= sum(second) * len(first):
        return 1.0
    values = np.asarray([*first, *second], np.float64)
    found = values[: len(first)].sum()
    drawn = np.random.default_rng(0).permuted(np.tile(values, (SHUFFLES, 1)), axis=1)
    as_low = int((drawn[:, : len(first)].sum(1) <= found + 1e-9).sum())
    return (as_low + 1) / (SHUFFLES + 1)


Groups = tuple[list[float], list[float]]


def confirmed(first_look: Groups, look_again: Callable[[], Groups]) -> tuple[float, Groups] | None:
    """The chance and the groups of a second look, if both say that the first group is lower."""
    if lower(*first_look) >= SUSPICIOUS:
        return None
    groups = look_again()
    chance = lower(*groups)
    return (chance, groups) if chance < CONFIRMED else None


def shown(values: Sequence[float]) -> str:
    """A mean with its 95 % interval and the number of repeats, for people."""
    return f"{interval(mean(values))} of {len(values)}"


def interval(estimate: Estimate) -> str:
    return f"{estimate.mean:.2f} [{estimate.low:.2f}, {estimate.high:.2f}]"
