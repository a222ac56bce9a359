"""Attention in blocks of queries over whole sequences, compiled.

Shapes: B rows, T positions, H heads, C head channels, N entries, L blocks of queries in a row,
R = B L of them in all, each with the S keys of its own block and of those before that its window
reaches.
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
    """Joint attention over window and entries in blocks of queries; see the reference.

    Where entries are chosen, the scores of all are computed and masked, as long as they are fewer
    numbers than the rows that would be gathered.
    """
    T = q_BTHC.shape[1]
    block = min(T, _QUERY_BLOCK)
    blocked = start == 0 and T % block == 0
    if selected_BTK is not None and entries_BNC is not None:
        H, C = q_BTHC.shape[2:]
        blocked &= entries_BNC.shape[1] * H <= selected_BTK.shape[2] * C
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
    B, L = len(q_BTHC), T // block
    behind = min(-(-(window - 1) // block), L - 1)
    near, edge = _near_masks(B, L, block, behind, window, q_BTHC.device)
    keys = _with_blocks_before(window_BSC, block, behind)
    if entries_BNC is None or entries_BNC.shape[1] == 0:
        rows = q_BTHC.reshape(B * L, block, *q_BTHC.shape[2:])
        return compiling.compiled(_attend_window)(rows, keys, near, edge, sink_H).view_as(q_BTHC)
    N = entries_BNC.shape[1]
    if selected_BTK is None:
        far = _far_mask(T, N, ratio, q_BTHC.device)
    else:
        far = _selected_mask(selected_BTK, N)
    run = compiling.compiled(_attend_entries, dynamic=compiling.varying(q_BTHC))
    return run(q_BTHC, keys, entries_BNC, near, edge, far, sink_H)


# Masks are added as numbers: comparing positions inside the compiled loops keeps them from being
# vectorised, which takes more time than the exponentials.


@functools.lru_cache(maxsize=64)
def _near_masks(
    B: int, L: int, block: int, behind: int, window: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """0 or -inf: [block, 1, S], which keys of the `behind` blocks before and of its own a query
    sees; [B L, 1, 1, S], which of them there are (a row begins with its first block)."""
    place = torch.arange(block, device=device)[:, None] + behind * block
    other = torch.arange((behind + 1) * block, device=device)
    unseen = (other > place) | (other <= place - window)
    missing = torch.arange(L, device=device)[:, None] + other // block < behind
    near, edge = (
        torch.zeros(mask.shape, device=device).masked_fill_(mask, float("-inf"))
        for mask in (unseen, missing.repeat(B, 1))
    )
    return near[:, None], edge[:, None, None]


@functools.lru_cache(maxsize=64)
def _far_mask(T: int, N: int, ratio: int, device: torch.device) -> Tensor:
    """0 or -inf [T, 1, N]: which entries are finished when a query is asked."""
    visible = (torch.arange(T, device=device) + 1)[:, None] // ratio
    hidden = torch.arange(N, device=device)[None] >= visible
    return torch.zeros(hidden.shape, device=device).masked_fill_(hidden, float("-inf"))[:, None]


def _selected_mask(selected_BTK: Tensor, N: int) -> Tensor:
    """0 or -inf [B, T, 1, N]: which entries a query's indexer chose."""
    B, T, _ = selected_BTK.shape
    mask = torch.full((B, T, N + 1), float("-inf"), device=selected_BTK.device)
    mask.scatter_(2, torch.where(selected_BTK < 0, N, selected_BTK), 0.0)
    return mask[:, :, None, :N].contiguous()


def _with_blocks_before(kv: Tensor, block: int, behind: int) -> Tensor:
    """The keys [B L, S, C] of L query blocks: those of the `behind` blocks before and their own."""
    B, T, C = kv.shape
    own = F.pad(kv, (0, 0, behind * block, 0)).view(B, T // block + behind, block, C)
    return own.unfold(1, behind + 1, 1).permute(0, 1, 4, 2, 3).reshape(-1, (behind + 1) * block, C)


def _window_scores(q: Tensor, keys: Tensor, near: Tensor, edge: Tensor) -> Tensor:
    """Masked scores [R, block, H, S] of R query blocks."""
    R, block, H, C = q.shape
    scores = torch.bmm(q.reshape(R, block * H, C), keys.mT).view(R, block, H, -1)
    return scores.float() * C**-0.5 + near + edge


def _attend_window(q: Tensor, keys: Tensor, near: Tensor, edge: Tensor, sink: Tensor) -> Tensor:
    R, block, H, C = q.shape
    z = _window_scores(q, keys, near, edge)
    peak = torch.maximum(z.amax(-1, keepdim=True), sink[:, None]).detach()
    p = torch.exp(z - peak)
    p = p * (p.sum(-1, keepdim=True) + torch.exp(sink[:, None] - peak)).reciprocal()
    return torch.bmm(p.to(keys.dtype).view(R, block * H, -1), keys).view(R, block, H, C)


def _attend_entries(
    q: Tensor,
    keys: Tensor,
    entries: Tensor,
    near_mask: Tensor,
    edge_mask: Tensor,
    far_mask: Tensor,
    sink: Tensor,
) -> Tensor:
    (B, T, H, C), (R, S, _) = q.shape, keys.shape
    block, N = B * T // R, entries.shape[1]
    z = _window_scores(q.reshape(R, block, H, C), keys, near_mask, edge_mask)
    far = torch.bmm(q.reshape(B, T * H, C), entries.mT).view(B, T, H, N).float() * C**-0.5
    far = far + far_mask
    z = z.view(B, T, H, S)
    peak = torch.maximum(z.amax(-1, keepdim=True), far.amax(-1, keepdim=True))
    peak = torch.maximum(peak, sink[:, None]).detach()
    p, far = torch.exp(z - peak), torch.exp(far - peak)
    total = p.sum(-1, keepdim=True) + far.sum(-1, keepdim=True) + torch.exp(sink[:, None] - peak)
    share = total.reciprocal()
    p = (p * share).to(keys.dtype).view(R, block * H, S)
    far = (far * share).to(keys.dtype).view(B, T * H, N)
    near = torch.bmm(p, keys).view(B, T, H, C)
    return near + torch.bmm(far, entries).view(B, T, H, C)
