"""The lightning indexer's own loss: its scores are to be the attention they stand for.

The language loss gives the indexer no gradient, for its choice is discrete. Its loss is that of
the V3.2 report (V4 does not restate it):

    KL( p || softmax(I) ),   p = attention summed over heads, normalised over the entries

for every query, over the compressed entries it may see while attention is dense (warm-up, the
rest of the model frozen), and over the entries it chose once attention is sparse, beside the
language loss. Inputs are detached: only the indexers learn from it.

Shapes: B rows, T positions, N entries, K chosen entries, S scored entries (N or K), H heads,
Q queries of a block.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from dsv4.config import CSA
from dsv4.data.batches import Batch
from dsv4.model.attention import Attention, Reading

_QUERIES = 128
"""Queries whose attention is computed together: bounds it to B x Q x H x (window + Q + entries)."""


def is_indexer(name: str) -> bool:
    """Whether the parameter called `name` belongs to an indexer."""
    return ".indexer." in name


def read_densely(model: nn.Module, dense: bool) -> None:
    """Have every CSA layer read all its compressed entries, or those its indexer chooses."""
    for attention in _csa_layers(model):
        attention.dense = dense


@contextlib.contextmanager
def observed(model: nn.Module) -> Iterator[list[Reading]]:
    """Collect what every CSA layer reads in the forward passes inside a `with` block."""
    found: list[Reading] = []
    layers = _csa_layers(model)
    for attention in layers:
        attention.observer = found.append
    try:
        yield found
    finally:
        for attention in layers:
            attention.observer = None


def count_queries(batches: Sequence[Batch]) -> int:
    """Real queries that see two entries or more: those the loss is a mean over."""
    blind = 2 * CSA - 1
    return sum(int((batch.length_B - blind).clamp_min(0).sum()) for batch in batches)


def indexer_loss(reading: Reading, batch: Batch) -> Tensor:
    """KL divergence of one layer, summed over the queries that `count_queries` counts."""
    seen_TS, target_BTS = attention_over_entries(reading)
    scores_BTS = index_scores(reading)
    log_q_BTS = torch.log_softmax(scores_BTS.masked_fill(~seen_TS, float("-inf")), -1)
    gap = target_BTS * (target_BTS.clamp_min(1e-30).log() - log_q_BTS)
    visible_T = _visible(reading.q_BTHC.shape[1], reading.q_BTHC.device)
    counted_BT = batch.valid_BT() & (visible_T >= 2)
    return torch.where(target_BTS > 0, gap, 0.0).sum(-1)[counted_BT].sum()


@torch.no_grad()
def attention_over_entries(reading: Reading) -> tuple[Tensor, Tensor]:
    """(which scored entries a query sees, head-summed attention on them, normalised).

    The first is `[T, N]` of dense attention and `[B, T, K]` of the chosen entries.
    """
    B, T, H, C = reading.q_BTHC.shape
    window, sink_H = reading.window, reading.sink_H.float()
    kv_BTC, entries_BNC = reading.window_BTC.float(), reading.entries_BNC.float()
    selected_BTK, device = reading.selected_BTK, reading.q_BTHC.device
    if selected_BTK is None:
        seen = torch.arange(entries_BNC.shape[1], device=device) < _visible(T, device)[:, None]
    else:
        seen = selected_BTK >= 0
    parts = []
    for begin in range(0, T, _QUERIES):
        end, first = min(begin + _QUERIES, T), max(0, begin - window + 1)
        q_BQHC = reading.q_BTHC[:, begin:end].float() * C**-0.5
        own_Q = torch.arange(begin, end, device=device)[:, None]
        place_S = torch.arange(first, end, device=device)
        band_QS = (place_S <= own_Q) & (place_S > own_Q - window)
        near = torch.einsum("bqhc,bsc->bqhs", q_BQHC, kv_BTC[:, first:end])
        near = near.masked_fill(~band_QS[:, None], float("-inf"))
        if selected_BTK is None:
            far = torch.einsum("bqhc,bnc->bqhn", q_BQHC, entries_BNC)
            far = far.masked_fill(~seen[begin:end, None], float("-inf"))
        else:
            far = torch.einsum(
                "bqhc,bqkc->bqhk", q_BQHC, _chosen(entries_BNC, selected_BTK[:, begin:end])
            )
            far = far.masked_fill(~seen[:, begin:end, None], float("-inf"))
        sink = sink_H[:, None].expand(*near.shape[:3], 1)
        joint = torch.softmax(torch.cat((far, near, sink), -1), -1)
        parts.append(joint[..., : far.shape[-1]].sum(2))
    summed = torch.cat(parts, 1)
    return seen, summed / summed.sum(-1, keepdim=True).clamp_min(1e-30)


def index_scores(reading: Reading) -> Tensor:
    """The indexer's scores of the entries that count `[B, T, S]` (report eqs. 15-17)."""
    question, selected_BTK = reading.question, reading.selected_BTK
    q_BTHI, keys_BNI = question.q_BTHI.float(), question.keys_BNI.float()
    if selected_BTK is None:
        dots_BTHS = torch.einsum("bthi,bni->bthn", q_BTHI, keys_BNI)
    else:
        dots_BTHS = torch.einsum("bthi,btki->bthk", q_BTHI, _chosen(keys_BNI, selected_BTK))
    return torch.einsum("bths,bth->bts", dots_BTHS.relu(), question.weights_BTH.float())


def _visible(length: int, device: torch.device) -> Tensor:
    """How many entries every position sees `[T]`."""
    return (torch.arange(length, device=device) + 1) // CSA


def _chosen(rows_BNX: Tensor, selected_BTK: Tensor) -> Tensor:
    """The selected rows `[B, T, K, X]`; row 0 where there is none."""
    batch_B11 = torch.arange(len(rows_BNX), device=rows_BNX.device)[:, None, None]
    return rows_BNX[batch_B11, selected_BTK.clamp(min=0)]


def _csa_layers(model: nn.Module) -> list[Attention]:
    """The layers with an indexer, in order."""
    modules = model.modules()
    return [m for m in modules if isinstance(m, Attention) and m.indexer is not None]
