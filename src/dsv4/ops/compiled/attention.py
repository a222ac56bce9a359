"""Attention in blocks of queries over whole sequences, compiled.

Shapes: B rows, T positions, H heads, C head channels, N entries, L blocks of queries.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from dsv4.numerics.policy import Numerics
from dsv4.ops.compiled import compiling
from dsv4.ops.reference import attention

_QUERY_BLOCK = 128


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
    """Joint attention over window and entries in blocks of queries; see the reference."""
    T = q_BTHC.shape[1]
    block = min(T, _QUERY_BLOCK)
    blocked = start == 0 and selected_BTK is None and T % block == 0 and window <= block
    if not blocked:
        return attention.attend(
            q_BTHC,
            window_BSC,
            entries_BNC,
            selected_BTK,
            sink_H,
            start=start,
            window=window,
            ratio=ratio,
            numerics=numerics,
        )
    if entries_BNC is None or entries_BNC.shape[1] == 0:
        return compiling.compiled(_attend_window)(q_BTHC, window_BSC, sink_H, block, window)
    return compiling.compiled(_attend_entries)(
        q_BTHC, window_BSC, entries_BNC, sink_H, block, window, ratio
    )


def _window_scores(q: Tensor, kv: Tensor, block: int, window: int) -> tuple[Tensor, Tensor]:
    """Masked scores [B, L, block, H, 2 block] of L query blocks, and the keys they are of."""
    B, T, H, C = q.shape
    L = T // block
    own = kv.view(B, L, block, C)
    before = F.pad(own[:, :-1], (0, 0, 0, 0, 1, 0))
    keys = torch.cat((before, own), 2)
    rows = q.reshape(B * L, block * H, C)
    scores = torch.bmm(rows, keys.view(B * L, 2 * block, C).mT)
    place = torch.arange(block, device=q.device)[:, None] + block
    other = torch.arange(2 * block, device=q.device)[None]
    near = (other <= place) & (other > place - window)
    inside = near & (torch.arange(L, device=q.device)[:, None, None] * block + other >= block)
    z = scores.view(B, L, block, H, 2 * block).float() * C**-0.5
    return z.masked_fill(~inside[None, :, :, None], float("-inf")), keys


def _attend_window(q: Tensor, kv: Tensor, sink: Tensor, block: int, window: int) -> Tensor:
    B, T, H, C = q.shape
    z, keys = _window_scores(q, kv, block, window)
    peak = torch.maximum(z.amax(-1, keepdim=True), sink[:, None]).detach()
    p = torch.exp(z - peak)
    p = p / (p.sum(-1, keepdim=True) + torch.exp(sink[:, None] - peak))
    L = T // block
    p = p.to(torch.bfloat16).view(B * L, block * H, 2 * block)
    return torch.bmm(p, keys.view(B * L, 2 * block, C)).view(B, T, H, C)


def _attend_entries(
    q: Tensor, kv: Tensor, entries: Tensor, sink: Tensor, block: int, window: int, ratio: int
) -> Tensor:
    B, T, H, C = q.shape
    L, N = T // block, entries.shape[1]
    z, keys = _window_scores(q, kv, block, window)
    far = torch.bmm(q.reshape(B, T * H, C), entries.mT).view(B, T, H, N).float() * C**-0.5
    visible = (torch.arange(T, device=q.device) + 1)[:, None] // ratio
    hidden = torch.arange(N, device=q.device)[None] >= visible
    far = far.masked_fill(hidden[None, :, None], float("-inf"))
    z = z.view(B, T, H, 2 * block)
    peak = torch.maximum(z.amax(-1, keepdim=True), far.amax(-1, keepdim=True))
    peak = torch.maximum(peak, sink[:, None]).detach()
    p, far = torch.exp(z - peak), torch.exp(far - peak)
    total = p.sum(-1, keepdim=True) + far.sum(-1, keepdim=True) + torch.exp(sink[:, None] - peak)
    p = (p / total).to(torch.bfloat16).view(B * L, block * H, 2 * block)
    far = (far / total).to(torch.bfloat16).view(B, T * H, N)
    near = torch.bmm(p, keys.view(B * L, 2 * block, C)).view(B, T, H, C)
    return near + torch.bmm(far, entries).view(B, T, H, C)
