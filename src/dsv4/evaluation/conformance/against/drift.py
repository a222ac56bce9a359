"""How far predictions are from those of `exact`, position by position.

Shapes: P positions, K reported tokens, V vocabulary.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from dsv4.evaluation.conformance.against.predictions import NONE, Predictions

TOP = 20
"""Likeliest tokens whose order and log-probabilities are compared where all are known."""
LEAST = 1e-6
"""Smallest probability of all tokens that are not reported, taken together: what is left of sums of
rounded numbers says no more."""

NOISE = 1e-8
"""Divergence that another order of float32 sums may cause: below 1e-10 in the models tried."""


@dataclass(frozen=True, slots=True)
class Drift:
    """How far `of` is from `exact` after the tokens at `positions`.

    `divergence`: KL(exact || of) in nats; of reported tokens alone it is that of these and of all
    others as one, which is at most the whole. `logprob`: the largest difference of a
    log-probability among the likeliest tokens. `top`: whether the likeliest token is the same.
    `overlap`: share of the likeliest tokens that are among the likeliest of `exact`.
    """

    of: str
    positions: tuple[int, ...]
    divergence: tuple[float, ...]
    logprob: tuple[float, ...]
    top: tuple[bool, ...]
    overlap: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Mean divergence."""
        return math.fsum(self.divergence) / len(self.divergence)

    @property
    def worst(self) -> int:
        """Number of the row with the largest divergence (a NaN is the largest)."""
        values = [math.inf if math.isnan(value) else value for value in self.divergence]
        return values.index(max(values))

    def as_json(self) -> dict[str, Any]:
        """Sums over positions, and every position."""
        rows = zip(
            self.positions, self.divergence, self.logprob, self.top, self.overlap, strict=True
        )
        return {
            "of": self.of,
            "divergence": self.mean,
            "largest_divergence": self.divergence[self.worst],
            "at": self.positions[self.worst],
            "logprob": max(self.logprob),
            "top": sum(self.top) / len(self.top),
            "overlap": math.fsum(self.overlap) / len(self.overlap),
            "positions": [
                {"position": p, "divergence": d, "logprob": x, "top": t, "overlap": o}
                for p, d, x, t, o in rows
            ],
        }


def seen_as(other: Predictions, of: str, logprobs_PV: Tensor) -> Predictions:
    """What `other` would have reported of these distributions at its positions."""
    if other.tokens_PK is None:
        return replace(other, source=of, logprobs_PK=logprobs_PV)
    reported_PK = logprobs_PV.gather(1, other.tokens_PK.clamp_min(0))
    return replace(other, source=of, logprobs_PK=reported_PK)


def divergences(a: Predictions, exact_PV: Tensor) -> Tensor:
    """KL(exact || a) of every position, `[P]`; `exact_PV`: log-probabilities."""
    if a.tokens_PK is None:
        terms_PV = exact_PV.exp() * (exact_PV - a.logprobs_PK)
        return torch.where(exact_PV == -torch.inf, 0.0, terms_PV).sum(1).clamp_min(0)
    known_PK = a.tokens_PK != NONE
    exact_PK = exact_PV.gather(1, a.tokens_PK.clamp_min(0))
    p_PK = torch.where(known_PK, exact_PK.exp(), 0.0)
    q_PK = torch.where(known_PK, a.logprobs_PK.exp(), 0.0)
    p_rest_P = (1 - p_PK.sum(1)).clamp_min(LEAST)
    q_rest_P = (1 - q_PK.sum(1)).clamp_min(LEAST)
    terms_PK = torch.where(p_PK > 0, p_PK * (exact_PK - a.logprobs_PK), 0.0)
    rest_P = p_rest_P * (p_rest_P.log() - q_rest_P.log())
    return (terms_PK.sum(1) + rest_P).clamp_min(0)


def drift(a: Predictions, exact_PV: Tensor) -> Drift:
    """The drift of predictions; `exact_PV`: log-probabilities at their positions."""
    if a.tokens_PK is None:
        tokens_PK = exact_PV.topk(min(TOP, exact_PV.shape[1])).indices
        logprobs_PK = a.logprobs_PK.gather(1, tokens_PK)
        own_PK = a.logprobs_PK.topk(tokens_PK.shape[1]).indices
        known_PK = torch.ones_like(own_PK, dtype=torch.bool)
    else:
        own_PK, known_PK = _sorted(a.tokens_PK, a.logprobs_PK)
        tokens_PK, logprobs_PK = a.tokens_PK, a.logprobs_PK
    exact_PK = exact_PV.gather(1, tokens_PK.clamp_min(0))
    difference_PK = (logprobs_PK - exact_PK).abs()
    difference_P = torch.where(tokens_PK != NONE, difference_PK, 0.0).amax(1)
    ranked_PK = exact_PV.topk(own_PK.shape[1]).indices
    overlap = []
    for own_K, known_K, ranked_K in zip(own_PK, known_PK, ranked_PK, strict=True):
        count = int(known_K.sum())
        same = set(own_K[:count].tolist()) & set(ranked_K[:count].tolist())
        overlap.append(len(same) / max(1, count))
    return Drift(
        a.source,
        a.positions,
        tuple(divergences(a, exact_PV).tolist()),
        tuple(difference_P.tolist()),
        tuple((own_PK[:, 0] == ranked_PK[:, 0]).tolist()),
        tuple(overlap),
    )


def _sorted(tokens_PK: Tensor, logprobs_PK: Tensor) -> tuple[Tensor, Tensor]:
    """(tokens from the likeliest to the least likely, which of them are reported)."""
    known_PK = tokens_PK != NONE
    order_PK = logprobs_PK.where(known_PK, -torch.inf).argsort(dim=1, descending=True)
    return tokens_PK.gather(1, order_PK), known_PK.gather(1, order_PK)
