"""From logits to one token: temperature, top-k, top-p and min-p as functions of a vector.

V: vocabulary.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from dsv4.engine.forward import require_finite
from dsv4.errors import UsageError

GREEDY_BELOW = 1e-5
"""Temperatures below this take the most likely token: the limit, without the overflow."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a token is drawn. Temperature 0 means the most likely one.

    `top_k` keeps the k most likely tokens (0: all), `top_p` the fewest tokens whose probability
    reaches p, `min_p` those at least p times as likely as the best. All apply after temperature
    and in this order. `seed` makes the draw repeatable; None takes a fresh one.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None

    def __post_init__(self) -> None:
        for name, value, allowed, good in (
            ("temperature", self.temperature, "0 to 2", 0 <= self.temperature <= 2),
            ("top_p", self.top_p, "above 0, at most 1", 0 < self.top_p <= 1),
            ("top_k", self.top_k, "0 (off) or more", self.top_k >= 0),
            ("min_p", self.min_p, "0 (off) to 1", 0 <= self.min_p <= 1),
        ):
            if not good:
                raise UsageError(f"{name} = {value} is out of range", f"{name}: {allowed}")
        if self.seed is not None and not -(1 << 63) <= self.seed < 1 << 63:
            raise UsageError(f"seed = {self.seed} is out of range", "seed: a 64-bit integer")


GREEDY = Sampling(temperature=0.0)


def probabilities(logits_V: Tensor, sampling: Sampling) -> Tensor:
    """The distribution `[V]` (float32) that `sampling` draws from; one-hot if greedy.

    Raises CheckpointError if the logits are not finite.
    """
    logits_V = require_finite(logits_V.float())
    if sampling.temperature < GREEDY_BELOW:
        one_hot = torch.zeros_like(logits_V)
        one_hot[int(logits_V.argmax())] = 1.0
        return one_hot
    probs_V = torch.softmax(logits_V / sampling.temperature, dim=-1)
    if 0 < sampling.top_k < probs_V.numel():
        probs_V = _keep(probs_V, probs_V.topk(sampling.top_k).indices)
    if sampling.top_p < 1:
        ordered, order = probs_V.sort(descending=True, stable=True)
        before = ordered.cumsum(-1) - ordered  # the token that crosses p is kept
        probs_V = _keep(probs_V, order[before < sampling.top_p])
    if sampling.min_p > 0:
        probs_V = _keep(probs_V, (probs_V >= sampling.min_p * probs_V.max()).nonzero()[:, 0])
    return probs_V


def _keep(probs_V: Tensor, indices: Tensor) -> Tensor:
    """The same distribution restricted to `indices`."""
    kept = torch.zeros_like(probs_V)
    kept[indices] = probs_V[indices]
    return kept / kept.sum()


class Sampler:
    """Draws tokens by one `Sampling`; owns the random numbers of one generation."""

    def __init__(self, sampling: Sampling) -> None:
        self.sampling = sampling
        self._random = torch.Generator()
        if sampling.seed is None:
            self._random.seed()
        else:
            self._random.manual_seed(sampling.seed)

    def pick(self, logits_V: Tensor) -> tuple[int, float]:
        """(token, its log-probability under the distribution that was drawn from)."""
        probs_V = probabilities(logits_V, self.sampling)
        token = int(torch.multinomial(probs_V, 1, generator=self._random))
        return token, math.log(float(probs_V[token]))
