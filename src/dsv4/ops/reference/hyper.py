"""Manifold-constrained hyper-connections (report 2.2), in float32.

Shapes: `...` tokens, S residual streams, D channels, M = S*S + 2S mixing coefficients.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dsv4.numerics.policy import Numerics


def mixing_logits(streams_SD: Tensor, fn_MX: Tensor, eps: float) -> Tensor:
    """`[..., M]` raw coefficients: projection of all streams, divided by their common RMS."""
    flat = streams_SD.flatten(-2).float()
    scale = torch.rsqrt(flat.square().mean(-1, keepdim=True) + eps)
    return torch.nn.functional.linear(flat, fn_MX) * scale


def sinkhorn(logits_SS: Tensor, iterations: int, eps: float) -> Tensor:
    """Almost doubly stochastic `[..., S, S]`: softmax rows, then alternate normalisation.

    Starts and ends with columns (the sum over the first of the two axes).
    """
    m = torch.softmax(logits_SS, -1) + eps
    m = m / (m.sum(-2, keepdim=True) + eps)
    for _ in range(iterations - 1):
        m = m / (m.sum(-1, keepdim=True) + eps)
        m = m / (m.sum(-2, keepdim=True) + eps)
    return m


def coefficients(
    logits_M: Tensor, scale_3: Tensor, base_M: Tensor, streams: int, iterations: int, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Collapse weights `[..., S]`, expansion weights `[..., S]`, mixing matrix `[..., S, S]`."""
    S = streams
    pre, post, comb = logits_M.split((S, S, S * S), -1)
    pre = torch.sigmoid(pre * scale_3[0] + base_M[:S]) + eps
    post = 2 * torch.sigmoid(post * scale_3[1] + base_M[S : 2 * S])
    comb = (comb * scale_3[2] + base_M[2 * S :]).unflatten(-1, (S, S))
    return pre, post, sinkhorn(comb, iterations, eps)


def collapse(streams_SD: Tensor, pre_S: Tensor, numerics: Numerics) -> Tensor:
    """Weighted sum of the streams: the sublayer's input `[..., D]`."""
    return (pre_S.unsqueeze(-1) * streams_SD.float()).sum(-2).to(numerics.dtype)


def expand(
    y_D: Tensor, streams_SD: Tensor, post_S: Tensor, comb_SS: Tensor, numerics: Numerics
) -> Tensor:
    """`X'_b = post_b y + sum_a comb[a, b] X_a`: mixes along the first axis of `comb`."""
    # Summed stream by stream, as the released code does: `official` decides rounding ties by
    # the last bit, and a matrix product would take another order.
    streams = streams_SD.float()
    mixed = comb_SS[..., 0, :, None] * streams[..., 0, None, :]
    for a in range(1, streams.shape[-2]):
        mixed = mixed + comb_SS[..., a, :, None] * streams[..., a, None, :]
    return (post_S.unsqueeze(-1) * y_D.float().unsqueeze(-2) + mixed).to(numerics.dtype)
