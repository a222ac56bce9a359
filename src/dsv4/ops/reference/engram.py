"""Engram: which rows of a table the last tokens name, and what a gate lets through of them.

Shapes: B rows of tokens, T tokens, N longest n-gram, R hashes, S residual streams, D hidden
channels, k taps of the convolution. Sections are those of arXiv 2601.07372.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from dsv4.numerics.policy import Numerics

SMALLEST_SCORE = 1e-6
"""Scores are at least this large before their root is taken, whose slope has no bound at 0."""


def ngram_rows(ids_BL: Tensor, multipliers_N: Tensor, primes_R: Tensor) -> Tensor:
    """Row numbers `[B, T, R]`, within the part of the table that belongs to each hash.

    `ids_BL` are canonical ids (int64) of T tokens and the N - 1 before them: L = T + N - 1.
    The n-gram that ends at a token mixes `id * multiplier` of its n last tokens by XOR; its
    K = R / (N - 1) hashes are that number modulo K primes (section 2.2).
    """
    N = multipliers_N.numel()
    T = ids_BL.shape[1] - N + 1
    mixed_BT = ids_BL[:, N - 1 :] * multipliers_N[0]
    mixes = []
    for n in range(1, N):
        earlier_BT = ids_BL[:, N - 1 - n : N - 1 - n + T]
        mixed_BT = mixed_BT ^ (earlier_BT * multipliers_N[n])
        mixes.append(mixed_BT)
    return (torch.stack(mixes, -1).unsqueeze(-1) % primes_R.view(N - 1, -1)).flatten(-2)


def engram_gate(
    streams_BTSD: Tensor,
    keys_BTSD: Tensor,
    value_BTD: Tensor,
    q_weight_SD: Tensor,
    k_weight_SD: Tensor,
    eps: float,
    numerics: Numerics,
) -> Tensor:
    """`alpha_s v` of every stream `[B, T, S, D]`: the value as far as its key fits the stream.

    With s = <RMSNorm(stream), RMSNorm(key)> / sqrt(D), alpha = sigmoid(sign(s) sqrt(|s|))
    (section 2.3; the signed root is in the released code, not in the paper's text).
    """
    streams, keys = streams_BTSD.float(), keys_BTSD.float()
    weight_SD = q_weight_SD.float() * k_weight_SD.float()
    dots_BTS = (streams * keys * weight_SD).sum(-1)
    rms = [(x.square().mean(-1) + eps).rsqrt() for x in (streams, keys)]
    scores_BTS = dots_BTS * rms[0] * rms[1] * streams.shape[-1] ** -0.5
    alpha_BTS = torch.sigmoid(scores_BTS.sign() * scores_BTS.abs().clamp_min(SMALLEST_SCORE).sqrt())
    return (alpha_BTS.unsqueeze(-1) * value_BTD.float().unsqueeze(-2)).to(numerics.dtype)


def engram_conv(normed_BLX: Tensor, taps_XK: Tensor, dilation: int) -> Tensor:
    """SiLU of a causal depthwise convolution `[B, T, X]` over rows and `(k - 1) dilation` earlier
    ones, L = T + (k - 1) dilation (section 2.3; the last tap weighs the token itself)."""
    y_BXT = F.conv1d(
        normed_BLX.float().mT, taps_XK.float()[:, None], dilation=dilation, groups=taps_XK.shape[0]
    )
    return F.silu(y_BXT.mT)
