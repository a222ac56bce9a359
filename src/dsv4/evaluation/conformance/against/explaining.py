"""Which known failure explains predictions: the one under which the reference predicts the same.

The distance of two distributions is the square root of their divergence, which adds up as rounding
errors do.

Shapes: P positions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor

from dsv4.config import HCA
from dsv4.evaluation.conformance.against.drift import NOISE, divergences
from dsv4.evaluation.conformance.against.predictions import Predictions, first_rows
from dsv4.evaluation.conformance.diagnosis import EXPLAINS, NEAR, Suspect
from dsv4.evaluation.conformance.faults import FAULTS
from dsv4.evaluation.conformance.pieces import Pieces
from dsv4.evaluation.conformance.variant import Variant
from dsv4.evaluation.conformance.ways import logits
from dsv4.numerics.policy import EXACT, OFFICIAL, Numerics

BASES = (EXACT, OFFICIAL)
"""How the reference rounds where failures are tried, one after the other until one is found."""

PLACES = 8
TOKENS = HCA + 32
"""Every failure is tried on as much of the text as has so many places that differ, and at least on
so many tokens: past the first entry of every kind."""

Progress = Callable[[int, int], None]


def suspects(
    pieces: Pieces,
    other: Predictions,
    sound: Mapping[str, Tensor],
    bound: float,
    progress: Progress,
) -> list[Suspect]:
    """The failures that explain how `other` differs from the reference, the best first; none may.

    `sound`: policy -> log-probabilities `[P, V]` of the reference under it. What differs from it by
    more than `bound` is to be explained; if nothing does, what is no noise. Costs a pass through
    the model per known failure and policy, over the first tokens that show a difference.
    """
    found: list[Suspect] = []
    for base in BASES:
        before_P = divergences(other, sound[base.name])
        wrong_P = before_P > bound
        if not bool(wrong_P.any()):
            wrong_P = before_P > NOISE
        if not bool(wrong_P.any()):
            return []  # it is the reference
        if not found:
            P = _rows(other.positions, wrong_P)
            part = first_rows(other, P)
            found = _of(pieces, part, before_P[:P], wrong_P[:P], bound, base, progress)
    return found


def _rows(positions: Sequence[int], wrong_P: Tensor) -> int:
    """How many of the first places are enough to tell failures from one another."""
    few = wrong_P.nonzero()[:PLACES, 0].tolist()
    last = max(TOKENS - 1, positions[few[-1]])
    return sum(position <= last for position in positions)


def _of(
    pieces: Pieces,
    other: Predictions,
    before_P: Tensor,
    wrong_P: Tensor,
    bound: float,
    base: Numerics,
    progress: Progress,
) -> list[Suspect]:
    variants = [Variant(name, base, (), fault.planted) for name, fault in FAULTS.items()]
    tried = [
        Suspect(FAULTS[name], _remains(divergences(other, logits_PV.double().log_softmax(-1)),
                                       before_P, wrong_P, bound))
        for name, logits_PV in logits(pieces, other.ids, variants, other.positions, progress)
    ]  # fmt: skip
    best = min(suspect.remains for suspect in tried)
    near = [s for s in tried if s.remains <= EXPLAINS and s.remains <= best + NEAR]
    return sorted(near, key=lambda suspect: suspect.remains)


def _remains(after_P: Tensor, before_P: Tensor, wrong_P: Tensor, bound: float) -> float:
    """The share that a failure leaves of what differs; positions where nothing does and it would
    are as bad as one that it does not explain."""
    ratio_P = (after_P / before_P.clamp_min(1e-300)).sqrt().clamp_max(1.0)
    unseen = int(((after_P > bound) & ~wrong_P).sum())
    return (float(ratio_P[wrong_P].sum()) + unseen) / int(wrong_P.sum())


def named(found: Sequence[Suspect]) -> str | None:
    """Suspects in words."""
    words = [f"{s.fault.name} (explains {100 * (1 - s.remains):.0f} %)" for s in found]
    return " or ".join(words) or None
