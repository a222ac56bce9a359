"""Warm-up of the lightning indexer: teach it what the dense attention reads.

The language loss gives the indexer no gradient, for its choice is discrete. V4 trains the model
with dense attention first and then, the rest frozen, brings the index scores to the attention
they are to replace (V4 report section 4.2.2; the loss is that of the V3.2 report):

    KL( p || softmax(I) ),   p = attention summed over heads, normalised over the entries

for every query, over the compressed entries it may see. Inputs are detached.

Shapes: B rows, T positions, N entries, H heads.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from dsv4 import ops
from dsv4.config import CSA
from dsv4.data.batches import Batch, Batches, Position
from dsv4.model.attention import Attention
from dsv4.model.indexer import Indexer
from dsv4.model.transformer import Transformer
from dsv4.numerics.policy import Numerics
from dsv4.training.optimizer import Optimizer
from dsv4.training.schedule import Schedule

Report = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Seen:
    """What one CSA layer computed: its indexer, the indexer's inputs, the attention's inputs."""

    indexer: Indexer
    x_BTD: Tensor
    query_BTQ: Tensor
    rotation: tuple[Tensor, Tensor]
    omega: Tensor
    numerics: Numerics
    q_BTHC: Tensor
    window_BTC: Tensor
    entries_BNC: Tensor
    sink_H: Tensor
    window: int


def train_indexers(
    model: Transformer, batches: Batches, schedule: Schedule, report: Report = lambda record: None
) -> None:
    """Train only the indexers, in place. Reports `indexer_step` and `indexer_loss`.

    Rows too short to have two compressed entries teach nothing; they are skipped.
    """
    wanted = {name for name, _ in model.named_parameters() if ".indexer." in name}
    frozen = [p for n, p in model.named_parameters() if p.requires_grad and n not in wanted]
    for parameter in frozen:
        parameter.requires_grad_(False)
    try:
        optimizer = Optimizer(model, model.config, weight_decay=0.0)
        position = Position()
        for step in range(schedule.steps):
            batch, position = _next_long(batches, position)
            with _watching(model) as seen, torch.no_grad():
                model(batch.ids_BT, last_only=True)
            losses = [indexer_loss(layer, batch) for layer in seen]
            loss = torch.stack(losses).mean()
            loss.backward()
            optimizer.step(schedule.rate(step))
            report({"indexer_step": step + 1, "indexer_loss": float(loss.detach())})
    finally:
        for parameter in frozen:
            parameter.requires_grad_(True)


def indexer_loss(seen: Seen, batch: Batch) -> Tensor:
    """Mean KL divergence of one layer over the real queries that see two entries or more."""
    target_BTN, visible_TN = attention_over_entries(seen)
    scores_BTN = index_scores(seen).masked_fill(~visible_TN, float("-inf"))
    log_q = torch.log_softmax(scores_BTN, -1)
    gap = torch.where(target_BTN > 0, target_BTN * (target_BTN.clamp_min(1e-30).log() - log_q), 0.0)
    counted = batch.valid_BT() & (visible_TN.sum(-1) >= 2)
    return gap.sum(-1)[counted].mean()


def attention_over_entries(seen: Seen) -> tuple[Tensor, Tensor]:
    """Head-summed attention on the entries, normalised [B, T, N], and which are visible [T, N]."""
    q_BTHC, scale = seen.q_BTHC.float(), seen.q_BTHC.shape[-1] ** -0.5
    near = torch.einsum("bthc,bsc->bths", q_BTHC, seen.window_BTC.float()) * scale
    far = torch.einsum("bthc,bnc->bthn", q_BTHC, seen.entries_BNC.float()) * scale
    place = torch.arange(near.shape[1])
    band = (place <= place[:, None]) & (place > place[:, None] - seen.window)
    visible_TN = torch.arange(far.shape[-1]) < (place[:, None] + 1) // CSA
    near = near.masked_fill(~band[:, None], float("-inf"))
    far = far.masked_fill(~visible_TN[:, None], float("-inf"))
    sink = seen.sink_H[:, None].expand(*near.shape[:3], 1)
    joint = torch.softmax(torch.cat((near, far, sink), -1), -1)
    summed = joint[..., near.shape[-1] : -1].sum(2)
    return summed / summed.sum(-1, keepdim=True).clamp_min(1e-30), visible_TN


def index_scores(seen: Seen) -> Tensor:
    """The indexer's score of every entry for every query [B, T, N] (report eqs. 15-17)."""
    indexer, numerics = seen.indexer, seen.numerics
    keys = indexer.compressor(seen.x_BTD, seen.omega, 0, None, numerics)
    q = ops.linear(seen.query_BTQ, indexer.wq_b.weight, numerics)
    q = ops.rotate(q.unflatten(-1, (indexer.heads, -1)), *seen.rotation)
    weight = ops.linear(seen.x_BTD, indexer.weights_proj.weight, numerics) * indexer.scale
    dots = torch.einsum("bthi,bni->bthn", q.float(), keys.float()).relu()
    return torch.einsum("bthn,bth->btn", dots, weight.float())


def _next_long(batches: Batches, position: Position) -> tuple[Batch, Position]:
    """The next batch whose rows have compressed entries to choose from."""
    while True:
        batch, position = batches.next(position)
        if batch.ids_BT.shape[1] >= 4 * CSA:
            return batch, position


@contextlib.contextmanager
def _watching(model: Transformer) -> Iterator[list[Seen]]:
    """Collect what every CSA layer computes in a forward pass without a state; reads densely."""
    found: list[Seen] = []
    asked: list[tuple[Indexer, tuple[Any, ...]]] = []
    attend, backend = ops.attend._bound, ops.attend.backend

    def watch(*args: Any, **kwargs: Any) -> Tensor:
        if asked:
            indexer, (x, query, rotation, omega, _, _, numerics) = asked.pop()
            q, window, entries, _, sink = args
            found.append(
                Seen(indexer, x, query, rotation, omega, numerics, q, window, entries, sink,
                     kwargs["window"])
            )  # fmt: skip
        return attend(*args, **kwargs)

    indexers = [
        attention.indexer
        for attention in (cast(Attention, layer.attn) for layer in model.layers)
        if attention.indexer is not None
    ]
    before = [indexer.__dict__.get("forward") for indexer in indexers]
    for indexer in indexers:
        indexer.__dict__["forward"] = lambda *args, of=indexer: asked.append((of, args))
    ops.attend.implementations["watched"] = watch
    ops.attend.bind("watched")
    try:
        yield found
    finally:
        ops.attend.bind(backend)
        del ops.attend.implementations["watched"]
        for indexer, forward in zip(indexers, before, strict=True):
            del indexer.__dict__["forward"]
            if forward is not None:
                indexer.__dict__["forward"] = forward
