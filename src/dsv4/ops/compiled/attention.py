"""Attention in blocks of queries over whole sequences, compiled.

Shapes: B rows, T positions, H heads, C head channels, N entries, L blocks of queries.
"""

from __future__ import annotations

import functools

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
    near = _near_mask(T // block, block, window, q_BTHC.device)
    if entries_BNC is None or entries_BNC.shape[1] == 0:
        return compiling.compiled(_attend_window)(q_BTHC, window_BSC, near, sink_H)
    far = _far_mask(T, entries_BNC.shape[1], ratio, q_BTHC.device)
    return compiling.compiled(_attend_entries)(q_BTHC, window_BSC, entries_BNC, near, far, sink_H)


# Masks are added as numbers: comparing positions inside the compiled loops keeps them from being
# vectorised, which takes more time than the exponentials.


@functools.lru_cache(maxsize=64)
def _near_mask(L: int, block: int, window: int, device: torch.device) -> Tensor:
    """0 or -inf [L, block, 1, 2 block]: which of the block before and its own a query sees."""
    place = torch.arange(block, device=device)[:, None] + block
    other = torch.arange(2 * block, device=device)[None]
    seen = (other <= place) & (other > place - window)
    seen = seen & (torch.arange(L, device=device)[:, None, None] * block + other >= block)
    return torch.zeros(seen.shape, device=device).masked_fill_(~seen, float("-inf"))[:, :, None]


@functools.lru_cache(maxsize=64)
def _far_mask(T: int, N: int, ratio: int, device: torch.device) -> Tensor:
    """0 or -inf [T, 1, N]: which entries are finished when a query is asked."""
    visible = (torch.arange(T, device=device) + 1)[:, None] // ratio
    hidden = torch.arange(N, device=device)[None] >= visible
    return torch.zeros(hidden.shape, device=device).masked_fill_(hidden, float("-inf"))[:, None]


def _window_scores(q: Tensor, kv: Tensor, near: Tensor) -> tuple[Tensor, Tensor]:
    """Masked scores [B, L, block, H, 2 block] of L query blocks, and the keys they are of."""
    block = near.shape[1]
    B, T, H, C = q.shape
    L = T // block
    own = kv.view(B, L, block, C)
    before = F.pad(own[:, :-1], (0, 0, 0, 0, 1, 0))
    keys = torch.cat((before, own), 2)
    rows = q.reshape(B * L, block * H, C)
    scores = torch.bmm(rows, keys.view(B * L, 2 * block, C).mT)
    return scores.view(B, L, block, H, 2 * block).float() * C**-0.5 + near, keys


def _attend_window(q: Tensor, kv: Tensor, near: Tensor, sink: Tensor) -> Tensor:
    (B, T, H, C), block = q.shape, near.shape[1]
    z, keys = _window_scores(q, kv, near)
    peak = torch.maximum(z.amax(-1, keepdim=True), sink[:, None]).detach()
    p = torch.exp(z - peak)
    p = p * (p.sum(-1, keepdim=True) + torch.exp(sink[:, None] - peak)).reciprocal()
    L = T // block
    p = p.to(torch.bfloat16).view(B * L, block * H, 2 * block)
    return torch.bmm(p, keys.view(B * L, 2 * block, C)).view(B, T, H, C)


def _attend_entries(
    q: Tensor, kv: Tensor, entries: Tensor, near_mask: Tensor, far_mask: Tensor, sink: Tensor
) -> Tensor:
    (B, T, H, C), block = q.shape, near_mask.shape[1]
    L, N = T // block, entries.shape[1]
    z, keys = _window_scores(q, kv, near_mask)
    far = torch.bmm(q.reshape(B, T * H, C), entries.mT).view(B, T, H, N).float() * C**-0.5
    far = far + far_mask
    z = z.view(B, T, H, 2 * block)
    peak = torch.maximum(z.amax(-1, keepdim=True), far.amax(-1, keepdim=True))
    peak = torch.maximum(peak, sink[:, None]).detach()
    p, far = torch.exp(z - peak), torch.exp(far - peak)
    total = p.sum(-1, keepdim=True) + far.sum(-1, keepdim=True) + torch.exp(sink[:, None] - peak)
    share = total.reciprocal()
    p = (p * share).to(torch.bfloat16).view(B * L, block * H, 2 * block)
    far = (far * share).to(torch.bfloat16).view(B, T * H, N)
    near = torch.bmm(p, keys.view(B * L, 2 * block, C)).view(B, T, H, C)
    return near + torch.bmm(far, entries).view(B, T, H, C)
