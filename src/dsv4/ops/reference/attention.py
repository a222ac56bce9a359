"""Core attention with sinks over a window and compressed entries, and the indexer's choice.

Shapes: B batch, T query tokens, H heads, C head channels, P past window rows, N compressed
entries, K selected entries, I index channels, W window, Q query tokens of one block.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dsv4.numerics.policy import Numerics

QUERY_BLOCK = 128
"""Queries handled together: bounds the score matrix to Q x (W + Q + entries)."""

SCORE_ELEMENTS = 1 << 26
"""Upper bound of index scores held at once, in elements."""


def attend(
    q_BTHC: Tensor,
    window_BSC: Tensor,
    entries_BNC: Tensor | None,
    selected_BTK: Tensor | None,
    sink_H: Tensor,
    *,
    start: int,
    window: int,
    ratio: int,
    numerics: Numerics,
) -> Tensor:
    """Joint softmax over window rows, visible entries and the sink. Returns `[B, T, H, C]`.

    `window_BSC` holds the P rows before the first query, then the T rows of the queries.
    Query i sits at position `start + i` and sees the last `window` rows up to itself, and of
    the entries the first `(start + i + 1) // ratio`, or those listed in `selected_BTK`, each at
    most once (-1 for none). Keys are values (report 2.3.3); the sink takes probability and adds
    nothing.
    """
    B, T, H, C = q_BTHC.shape
    past = window_BSC.shape[1] - T
    outputs = []
    for begin in range(0, T, QUERY_BLOCK):
        end = min(begin + QUERY_BLOCK, T)
        first = max(0, past + begin - window + 1)
        keys_BSC = window_BSC[:, first : past + end]
        row_S = torch.arange(first, past + end, device=q_BTHC.device)
        own_Q = torch.arange(past + begin, past + end, device=q_BTHC.device)
        seen_QS = (row_S <= own_Q[:, None]) & (row_S > own_Q[:, None] - window)
        seen_BQS = seen_QS.expand(B, -1, -1)
        q_BQHC = q_BTHC[:, begin:end].to(numerics.inputs).float()
        scores = [torch.einsum("bqhc,bsc->bqhs", q_BQHC, keys_BSC.float())]
        values: list[Tensor] = [keys_BSC.float()]
        if entries_BNC is not None and selected_BTK is not None:
            chosen_BQK = selected_BTK[:, begin:end]
            rows_BQKC = entries_BNC[
                torch.arange(B, device=q_BTHC.device)[:, None, None], chosen_BQK.clamp(min=0)
            ].float()
            scores.append(torch.einsum("bqhc,bqkc->bqhk", q_BQHC, rows_BQKC))
            values.append(rows_BQKC)
            seen_BQS = torch.cat((seen_BQS, chosen_BQK >= 0), -1)
        elif entries_BNC is not None:
            reachable = (start + end) // ratio
            rows_BNC = entries_BNC[:, :reachable].float()
            visible_Q = (torch.arange(begin, end, device=q_BTHC.device) + start + 1) // ratio
            scores.append(torch.einsum("bqhc,bnc->bqhn", q_BQHC, rows_BNC))
            values.append(rows_BNC)
            seen_QN = torch.arange(reachable, device=q_BTHC.device) < visible_Q[:, None]
            seen_BQS = torch.cat((seen_BQS, seen_QN.expand(B, -1, -1)), -1)
        z = torch.cat(scores, -1) * C**-0.5
        z = z.masked_fill(~seen_BQS[:, :, None], float("-inf"))
        # The released kernel keeps the running maximum over keys only, sums unrounded
        # probabilities and rounds them for the value product.
        peak = z.amax(-1, keepdim=True).detach()
        p = torch.exp(z - peak)
        total = p.sum(-1, keepdim=True) + torch.exp(sink_H.float()[:, None] - peak)
        p = p.to(numerics.probabilities).float()
        width = keys_BSC.shape[1]
        out = torch.einsum("bqhs,bsc->bqhc", p[..., :width], values[0])
        if len(values) > 1:
            spec = "bqhk,bqkc->bqhc" if values[1].dim() == 4 else "bqhn,bnc->bqhc"
            out = out + torch.einsum(spec, p[..., width:], values[1])
        outputs.append((out / total).to(numerics.dtype))
    return torch.cat(outputs, 1) if len(outputs) > 1 else outputs[0]


def select(
    q_BTHI: Tensor, weights_BTH: Tensor, keys_BNI: Tensor, *, start: int, ratio: int, k: int
) -> Tensor:
    """The lightning indexer's choice (report eqs. 15-17): `[B, T, k]` entry numbers, -1 = none.

    Score of entry n for query t: `sum_h w[t, h] * relu(q[t, h] . key[n])`, over the first
    `(start + t + 1) // ratio` entries. Equal scores: the lower entry number wins.
    Rounds to the dtype of `q` after each step, as the released code does.
    """
    B, T, H, _ = q_BTHI.shape
    N = keys_BNI.shape[1]
    dtype = q_BTHI.dtype
    block = max(1, min(T, SCORE_ELEMENTS // max(1, B * H * N)))
    chosen = []
    for begin in range(0, T, block):
        end = min(begin + block, T)
        dots = torch.einsum("bqhi,bni->bqhn", q_BTHI[:, begin:end].float(), keys_BNI.float())
        weighted = dots.to(dtype).relu() * weights_BTH[:, begin:end, :, None].to(dtype)
        scores_BQN = weighted.float().sum(2).to(dtype)
        visible_Q = (torch.arange(begin, end, device=keys_BNI.device) + start + 1) // ratio
        hidden_QN = torch.arange(N, device=keys_BNI.device) >= visible_Q[:, None]
        scores_BQN = scores_BQN.masked_fill(hidden_QN, float("-inf"))
        # A stable sort, since the order of equal scores in topk is unspecified.
        order = scores_BQN.sort(dim=-1, descending=True, stable=True)
        top_BQK = order.indices[..., :k]
        chosen.append(top_BQK.masked_fill(order.values[..., :k] == float("-inf"), -1))
    return torch.cat(chosen, 1)
