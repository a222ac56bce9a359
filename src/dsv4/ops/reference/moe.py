"""Expert routing and the gated feed-forward (report 2.1).

Shapes: N tokens, E experts, K experts per token, D channels, F feed-forward width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from dsv4.numerics.adapted import Factor
from dsv4.numerics.policy import Numerics
from dsv4.ops.reference.primitives import linear, linear_f32

TINY = 1e-20
"""Keeps the weight of a token whose affinities all underflow finite (0/0 otherwise)."""


def affinities(x_ND: Tensor, gate_ED: Tensor, numerics: Numerics) -> Tensor:
    """`sqrt(softplus(x . gate))`, float32 `[N, E]`; softplus is linear above 20."""
    return F.softplus(linear_f32(x_ND, gate_ED, numerics)).sqrt()


def top_experts(scores_NE: Tensor, bias_E: Tensor, k: int) -> Tensor:
    """The k experts of each token by biased affinity, `[N, k]`; ties go to the lower number."""
    biased = scores_NE + bias_E
    return biased.sort(dim=-1, descending=True, stable=True).indices[:, :k]


def routing_weights(scores_NE: Tensor, experts_NK: Tensor, scale: float) -> Tensor:
    """Un-biased affinities of the chosen experts, normalised to sum to `scale`: `[N, K]`."""
    chosen = scores_NE.gather(1, experts_NK)
    return chosen / (chosen.sum(-1, keepdim=True) + TINY) * scale


def swiglu(
    x_ND: Tensor,
    w1: Factor,
    w3: Factor,
    w2: Factor,
    limit: float,
    numerics: Numerics,
    weight_N: Tensor | None = None,
) -> Tensor:
    """`w2 (silu(min(w1 x, limit)) * clip(w3 x, limit))`, the routing weight applied before w2."""
    gate = linear(x_ND, w1, numerics).float().clamp(max=limit)
    up = linear(x_ND, w3, numerics).float().clamp(-limit, limit)
    hidden = F.silu(gate) * up
    if weight_N is not None:
        hidden = weight_N[:, None] * hidden
    return linear(hidden.to(numerics.dtype), w2, numerics)


def mixture(
    x_ND: Tensor,
    experts_NK: Tensor,
    weights_NK: Tensor,
    matrices: Sequence[tuple[Factor, Factor, Factor]],
    limit: float,
    numerics: Numerics,
) -> Tensor:
    """Sum over each token's experts, accumulated in float32 `[N, D]`.

    `matrices[e]` = (w1, w3, w2) of expert e; only experts that some token chose are touched.
    """
    N, K = experts_NK.shape
    flat = experts_NK.flatten()
    order = flat.argsort(stable=True)
    counts = torch.bincount(flat, minlength=len(matrices)).tolist()
    token_of = order // K
    # One gather and a split: the gradient of a gather per expert would be as large as x each.
    rows = x_ND[token_of].split(counts)
    weights = weights_NK.flatten()[order].split(counts)
    parts = [
        swiglu(x, *triple, limit, numerics, weight).float()
        for x, triple, weight in zip(rows, matrices, weights, strict=True)
        if len(x)
    ]
    out_ND = torch.zeros(N, x_ND.shape[1], device=x_ND.device)
    return out_ND.index_add(0, token_of, torch.cat(parts)) if parts else out_ND
