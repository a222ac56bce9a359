"""From logits to one token, as functions of a vector and of one random number.

The random number of a draw follows from the request's seed and the token's place in the answer.
So a draw does not depend on how the logits were computed: alone or in a batch, one by one or
checked after a guess.

V: vocabulary.
"""

from __future__ import annotations

import hashlib
import math
import secrets
from collections import Counter
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

    `bias` is added to the logits of single tokens, (id, amount); `presence_penalty` is taken
    once from each token the answer already holds and `frequency_penalty` as often as it holds
    it. `top_k` keeps the k most likely tokens (0: all), `top_p` the fewest tokens whose
    probability reaches p, `min_p` those at least p times as likely as the best. These apply
    after temperature and in this order. `seed` makes the answer repeatable; None takes a fresh
    one.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    bias: tuple[tuple[int, float], ...] = ()

    def __post_init__(self) -> None:
        for name, value, allowed, good in (
            ("temperature", self.temperature, "0 to 2", 0 <= self.temperature <= 2),
            ("top_p", self.top_p, "above 0, at most 1", 0 < self.top_p <= 1),
            ("top_k", self.top_k, "0 (off) or more", self.top_k >= 0),
            ("min_p", self.min_p, "0 (off) to 1", 0 <= self.min_p <= 1),
            ("presence_penalty", self.presence_penalty, "-2 to 2", abs(self.presence_penalty) <= 2),
            (
                "frequency_penalty",
                self.frequency_penalty,
                "-2 to 2",
                abs(self.frequency_penalty) <= 2,
            ),
        ):
            if not good:
                raise UsageError(f"{name} = {value} is out of range", f"{name}: {allowed}")
        if self.seed is not None and not -(1 << 63) <= self.seed < 1 << 63:
            raise UsageError(f"seed = {self.seed} is out of range", "seed: a 64-bit integer")
        for token, amount in self.bias:
            if token < 0 or not abs(amount) <= 100:
                raise UsageError(
                    f"logit_bias {token}: {amount} is out of range", "ids with -100 to 100"
                )

    @property
    def greedy(self) -> bool:
        """Whether the most likely token is taken."""
        return self.temperature < GREEDY_BELOW

    @property
    def penalises(self) -> bool:
        return self.presence_penalty != 0 or self.frequency_penalty != 0


GREEDY = Sampling(temperature=0.0)


def probabilities(logits_V: Tensor, sampling: Sampling) -> Tensor:
    """The distribution `[V]` (float32) that `sampling` draws from; one-hot if greedy.

    Takes finite logits, and minus infinity for tokens that may not come.
    """
    if sampling.greedy:
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


@dataclass(frozen=True, slots=True)
class Draw:
    """A drawn token and what it was drawn from: adjusted logits, and their distribution (None:
    the most likely token was certain)."""

    token: int
    logits_V: Tensor
    probs_V: Tensor | None

    @property
    def logprob(self) -> float:
        return 0.0 if self.probs_V is None else math.log(float(self.probs_V[self.token]))

    def best(self, count: int) -> list[tuple[int, float]]:
        """The `count` most likely tokens and their log-probabilities, best first."""
        count = min(count, self.logits_V.numel())
        if self.probs_V is None:
            ids = self.logits_V.topk(count).indices.tolist()
            return [(token, 0.0 if token == self.token else -math.inf) for token in ids]
        values, best = self.probs_V.topk(count)
        return list(zip(best.tolist(), values.log().tolist(), strict=True))


class Sampler:
    """Draws the tokens of one answer in order; what was drawn counts for the penalties."""

    def __init__(self, sampling: Sampling) -> None:
        self.sampling = sampling
        seed = secrets.randbits(64) if sampling.seed is None else sampling.seed % (1 << 64)
        self._key = seed.to_bytes(8, "little")
        self._drawn: Counter[int] = Counter()
        self._count = 0

    def draw(self, logits_V: Tensor, allowed_V: Tensor | None = None) -> Draw:
        """The next token. Raises CheckpointError if the logits are not finite."""
        sampling = self.sampling
        logits_V = self._adjusted(require_finite(logits_V.float()))
        if allowed_V is not None:
            logits_V = logits_V.masked_fill(~allowed_V, -math.inf)
        if sampling.greedy:
            draw = Draw(int(logits_V.argmax()), logits_V, None)
        else:
            probs_V = probabilities(logits_V, sampling)
            draw = Draw(_at(probs_V, self._uniform()), logits_V, probs_V)
        self._drawn[draw.token] += 1
        self._count += 1
        return draw

    def guess(self, logits_V: Tensor, ahead: int) -> int:
        """The token these logits would lead to, `ahead` draws from now, with the random number
        that will decide it; nothing is remembered."""
        if self.sampling.greedy:
            return int(logits_V.argmax())
        return _at(probabilities(logits_V, self.sampling), self._uniform(ahead))

    def _adjusted(self, logits_V: Tensor) -> Tensor:
        sampling = self.sampling
        if not sampling.bias and not sampling.penalises:
            return logits_V
        logits_V = logits_V.clone()
        for token, amount in sampling.bias:
            logits_V[token] += amount
        if sampling.penalises and self._drawn:
            ids = torch.tensor(list(self._drawn))
            times = torch.tensor(list(self._drawn.values()), dtype=torch.float32)
            taken = sampling.presence_penalty + sampling.frequency_penalty * times
            logits_V[ids] -= taken
        return logits_V

    def _uniform(self, ahead: int = 0) -> float:
        """The random number in [0, 1) of a draw."""
        place = (self._count + ahead).to_bytes(8, "little")
        digest = hashlib.blake2b(place, key=self._key, digest_size=8).digest()
        return (int.from_bytes(digest, "little") >> 11) * 2.0**-53


def _at(probs_V: Tensor, u: float) -> int:
    """The token in whose share of [0, 1) the number `u` falls, tokens in the order of ids."""
    sums_V = probs_V.double().cumsum(0)
    token = int(torch.searchsorted(sums_V, u * float(sums_V[-1]), right=True))
    if token < probs_V.numel() and float(probs_V[token]) > 0:
        return token
    return int(probs_V.nonzero()[-1])  # rounding put u behind the last share
