"""Group-relative policy optimisation with the additions of the V3.2 report (section 3.1 there).

For answers o_1 .. o_G to one prompt, with rewards R_i:

    A_i   = R_i - mean(R)
    r_t   = pi(o_t) / pi_old(o_t)
    loss  = -mean_i mean_t [ M_i min(r_t A_i, clip(r_t, 1 - low, 1 + high) A_i) - beta KL_t ]
    KL_t  = r_t (pi_ref/pi - log(pi_ref/pi) - 1)          an unbiased estimate, also in its gradient
    M_i   = 0 if A_i < 0 and mean_t log(pi_old/pi) > delta, else 1

pi_old is what the serving engine drew from, so r_t also holds what its rounding changes.

Shapes: B samples, M drawn ids of all samples, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dsv4.errors import UsageError
from dsv4.training.answers import Answers


@dataclass(frozen=True, slots=True)
class Clip:
    """The constants of the loss: `low` and `high` bound the ratio, `beta` weighs the distance to
    the reference (0: there is none), `delta` is the mean log-ratio from which a bad answer is
    too far off the policy to learn from."""

    low: float = 0.2
    high: float = 0.28
    beta: float = 1e-3
    delta: float = 0.5

    def __post_init__(self) -> None:
        if not (0 < self.low < 1 and self.high > 0 and self.beta >= 0 and self.delta > 0):
            raise UsageError(f"{self} is out of range", "0 < low < 1, 0 < high, beta, delta")


@dataclass(frozen=True, slots=True)
class Terms:
    """Loss `[B]` of every sample, and what happened, summed over the M ids (samples for
    `masked`)."""

    loss_B: Tensor
    kl: float
    clipped: float
    log_ratio: float
    masked: int


def advantages(rewards: Sequence[float]) -> list[float]:
    """Rewards of one group, centred. They are not divided by their deviation, which would weigh
    prompts that are almost always or almost never solved like those in between."""
    mean = sum(rewards) / len(rewards)
    return [reward - mean for reward in rewards]


def policy_terms(
    logp_M: Tensor,
    old_M: Tensor,
    reference_M: Tensor | None,
    advantage_B: Tensor,
    answers: Answers,
    clip: Clip,
) -> Terms:
    """The loss of samples from log-probabilities of their ids: now (differentiable), when they
    were drawn, and under the reference (None: without KL term)."""
    ratio_M = (logp_M - old_M).exp()
    advantage_M = advantage_B[answers.row_M]
    bounded_M = ratio_M.clamp(1 - clip.low, 1 + clip.high) * advantage_M
    gain_M = torch.minimum(ratio_M * advantage_M, bounded_M)
    drift_B = answers.mean_over_answers((old_M - logp_M).detach())
    masked_B = (advantage_B < 0) & (drift_B > clip.delta)
    loss_M = -gain_M.masked_fill(masked_B[answers.row_M], 0.0)
    kl_M = torch.zeros_like(logp_M)
    if reference_M is not None:
        gap_M = reference_M - logp_M
        kl_M = ratio_M * (gap_M.exp() - gap_M - 1)
        loss_M = loss_M + clip.beta * kl_M
    up, down = ratio_M > 1 + clip.high, ratio_M < 1 - clip.low
    clipped_M = (up & (advantage_M > 0)) | (down & (advantage_M < 0))
    return Terms(
        answers.mean_over_answers(loss_M),
        float(kl_M.detach().sum()),
        float(clipped_M.sum()),
        float((old_M - logp_M).detach().sum()),
        int(masked_B.sum()),
    )


def chosen_logprobs(logits_MV: Tensor, drawn_M: Tensor) -> tuple[Tensor, float]:
    """Log-probability of the drawn ids `[M]` (differentiable), and the summed entropy of what
    they were drawn from."""
    logp_MV = torch.log_softmax(logits_MV, -1)
    seen_MV = logp_MV.detach()
    entropy = float(-(seen_MV.exp() * seen_MV).sum())
    return logp_MV.gather(1, drawn_M[:, None])[:, 0], entropy
