"""Hyper-connections with the tokens innermost, and a Sinkhorn with its own gradient.

Shapes: `...` tokens (N when flattened), S residual streams, D channels, M = S*S + 2S.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dsv4.numerics.policy import Numerics
from dsv4.ops.compiled import compiling
from dsv4.ops.reference import hyper


def mixing_logits(streams_SD: Tensor, fn_MX: Tensor, eps: float) -> Tensor:
    """See the reference."""
    lead = streams_SD.shape[:-2]
    rows = compiling.compiled(_mixing_logits)(streams_SD.flatten(0, -3), fn_MX, eps)
    return rows.view(*lead, -1)


def _mixing_logits(streams_NSD: Tensor, fn_MX: Tensor, eps: float) -> Tensor:
    flat = streams_NSD.flatten(1)
    scale = torch.rsqrt(flat.float().square().mean(-1, keepdim=True) + eps)
    return F.linear(flat, fn_MX.to(flat.dtype)).float() * scale


def coefficients(
    logits_M: Tensor, scale_3: Tensor, base_M: Tensor, streams: int, iterations: int, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """mHC coefficients; see the reference."""
    S, lead = streams, logits_M.shape[:-1]
    raw_MN = logits_M.reshape(-1, logits_M.shape[-1]).T.contiguous()
    scale_M1 = torch.cat((scale_3[:1].expand(S), scale_3[1:2].expand(S), scale_3[2:].expand(S * S)))
    mixed_MN = raw_MN * scale_M1[:, None] + base_M[:, None]
    pre, post, comb = mixed_MN.split((S, S, S * S))
    comb_SSN = torch.softmax(comb.view(S, S, -1), 1) + eps
    comb_SSN = _Sinkhorn.apply(comb_SSN, iterations, eps)
    comb_NSS = comb_SSN.permute(2, 0, 1).contiguous()
    pre, post = torch.sigmoid(pre) + eps, 2 * torch.sigmoid(post)
    return pre.T.reshape(*lead, S), post.T.reshape(*lead, S), comb_NSS.view(*lead, S, S)


class _Sinkhorn(torch.autograd.Function):
    """Alternate normalisation of m [S, S, N], columns first and last, with its exact gradient.

    With N innermost every step is a few vector operations over the tokens. On a GPU launching
    them takes longer than their arithmetic, so that all steps are one compiled function there.
    """

    @staticmethod
    def forward(ctx: Any, m_SSN: Tensor, rounds: int, eps: float) -> Tensor:
        run = compiling.compiled(_normalise) if m_SSN.is_cuda else _normalise
        steps = run(m_SSN, rounds, eps)
        ctx.save_for_backward(*steps)
        last: Tensor = steps[-2]
        return last

    @staticmethod
    def backward(ctx: Any, grad_SSN: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        steps = ctx.saved_tensors
        if grad_SSN.is_cuda:
            return compiling.compiled(_back)(grad_SSN, steps, _step_back), None, None
        return _back(grad_SSN, steps, compiling.compiled(_step_back)), None, None


def _normalise(m: Tensor, rounds: int, eps: float) -> list[Tensor]:
    """What every step leaves: m, and the reciprocals of the sums it was divided by."""
    steps = []
    for step in range(2 * rounds - 1):
        total = (m.sum(step % 2, keepdim=True) + eps).reciprocal()
        m = m * total
        steps += [m, total]
    return steps


def _back(grad: Tensor, steps: Sequence[Tensor], step_back: Callable[..., Tensor]) -> Tensor:
    """The gradient before all steps."""
    for step in reversed(range(len(steps) // 2)):
        grad = step_back(grad, steps[2 * step], steps[2 * step + 1], step % 2)
    return grad


def _step_back(grad: Tensor, after: Tensor, total: Tensor, dim: int) -> Tensor:
    """The gradient before a division by sums over `dim`; `total` are their reciprocals."""
    return (grad - (grad * after).sum(dim, keepdim=True)) * total


def collapse(streams_SD: Tensor, pre_S: Tensor, numerics: Numerics) -> Tensor:
    """See the reference."""
    lead = streams_SD.shape[:-2]
    rows = compiling.compiled(hyper.collapse)(
        streams_SD.flatten(0, -3), pre_S.flatten(0, -2), numerics
    )
    return rows.view(*lead, -1)


def expand(
    y_D: Tensor, streams_SD: Tensor, post_S: Tensor, comb_SS: Tensor, numerics: Numerics
) -> Tensor:
    """See the reference."""
    rows: Tensor = _Expand.apply(
        y_D.flatten(0, -2).to(numerics.dtype),
        streams_SD.flatten(0, -3),
        post_S.flatten(0, -2),
        comb_SS.flatten(0, -3),
    )
    return rows.view(streams_SD.shape)


class _Expand(torch.autograd.Function):
    """`post y + comb^T streams`: forward and backward pass as one sweep each over the streams."""

    @staticmethod
    def forward(
        ctx: Any, y_ND: Tensor, streams_NSD: Tensor, post_NS: Tensor, comb_NSS: Tensor
    ) -> Tensor:
        ctx.save_for_backward(y_ND, streams_NSD, post_NS, comb_NSS)
        return compiling.compiled(_expand)(y_ND, streams_NSD, post_NS, comb_NSS)

    @staticmethod
    def backward(ctx: Any, grad_NSD: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        back = compiling.compiled(_expand_back)
        slopes: tuple[Tensor, ...] = back(grad_NSD.contiguous(), *ctx.saved_tensors)
        return slopes


def _expand(y: Tensor, streams: Tensor, post: Tensor, comb: Tensor) -> Tensor:
    mixed = (comb.unsqueeze(-1) * streams.float().unsqueeze(2)).sum(1)
    return (post.unsqueeze(-1) * y.float().unsqueeze(1) + mixed).to(y.dtype)


def _expand_back(
    grad_NSD: Tensor, y: Tensor, streams: Tensor, post: Tensor, comb: Tensor
) -> tuple[Tensor, ...]:
    grad = grad_NSD.float()
    dy = (post.unsqueeze(-1) * grad).sum(1)
    dstreams = (comb.unsqueeze(-1) * grad.unsqueeze(1)).sum(2)
    dpost = (grad * y.float().unsqueeze(1)).sum(-1)
    dcomb = (streams.float().unsqueeze(2) * grad.unsqueeze(1)).sum(-1)
    return dy.to(y.dtype), dstreams.to(streams.dtype), dpost, dcomb
