"""Indexer warm-up: scores move towards the attention they replace, and nothing else moves."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.unit.training.small import SMALL

from dsv4.data.batches import Batch, Batches, Mix, Position
from dsv4.data.shards import Shard
from dsv4.model.transformer import Transformer
from dsv4.model.weights import init_weights
from dsv4.training.indexer import (
    attention_over_entries,
    count_queries,
    index_scores,
    indexer_loss,
    observed,
    read_densely,
)
from dsv4.training.language import LanguageObjective, Stream
from dsv4.training.loop import LoopSettings, Trainer
from dsv4.training.schedule import Schedule

CONFIG = replace(SMALL, num_hidden_layers=2, compress_ratios=(0, 4, 0))


@pytest.fixture
def model():
    model = Transformer(CONFIG)
    init_weights(model, 0)
    for name, parameter in model.named_parameters():
        if "attn.w" in name or "compressor.w" in name:
            parameter.data *= 5  # attention that prefers some entries
    return model


@pytest.fixture
def batches():
    tokens = np.random.default_rng(0).integers(3, 64, 64 * 16).astype(np.uint16)
    shard = Shard("noise", tokens, np.arange(0, len(tokens) + 1, 64))
    return Batches(Mix((shard,), (1.0,)), batch_tokens=256, max_length=64, seed=0)


def reading_of(model, batch, *, dense=True):
    read_densely(model, dense)
    with observed(model) as readings:
        model(batch.ids_BT)
    read_densely(model, False)
    (reading,) = readings
    return reading


def trainer(model, batches, out, schedule):
    tokens = np.random.default_rng(0).integers(3, 64, 64 * 16).astype(np.uint16)
    shard = Shard("noise", tokens, np.arange(0, len(tokens) + 1, 64))
    stream = Stream(Mix((shard,), (1.0,)), schedule, batch_tokens=256, max_length=64, seed=0)
    objective = LanguageObjective(model, CONFIG, stream, schedule)
    return Trainer(model, CONFIG, objective, LoopSettings(out, schedule))


def test_phases_move_what_they_should(model, batches, tmp_path):
    """Dense: all but the indexers; warm-up: they alone, towards the attention; sparse: all."""
    schedule = Schedule(44, lr=0.01, warmup=0, dense=2 / 44, indexer_steps=40)
    run, records, moved = trainer(model, batches, tmp_path, schedule), [], []
    before = {name: p.detach().clone() for name, p in model.named_parameters()}

    def watch(record):
        records.append(record)
        if record["step"] in (2, 42, 44):
            now = {name: p.detach().clone() for name, p in model.named_parameters()}
            moved.append({name for name in now if not torch.equal(now[name], before[name])})
            before.update(now)

    assert run.run(watch)
    dense, warmed, sparse = moved
    indexers = {name for name in before if ".indexer." in name}
    assert not dense & indexers and "embed.weight" in dense
    assert warmed == indexers
    assert indexers < sparse and "embed.weight" in sparse
    assert [set(r) & {"loss", "indexer_loss"} for r in (records[0], records[9], records[-1])] == [
        {"loss"},
        {"indexer_loss"},
        {"loss", "indexer_loss"},
    ]
    losses = [record["indexer_loss"] for record in records[2:42]]
    assert np.mean(losses[-5:]) < 0.5 * np.mean(losses[:5])


def test_target_is_the_attention_of_the_model(model, batches):
    """One query, by hand: joint softmax over window, entries and sink, summed over heads."""
    seen = reading_of(model, batches[Position()])
    visible, target = attention_over_entries(seen)
    row, t = 1, 41
    assert visible[t].sum() == 10
    q, scale = seen.q_BTHC[row, t], seen.q_BTHC.shape[-1] ** -0.5
    near = q @ seen.window_BTC[row, t - CONFIG.sliding_window + 1 : t + 1].T * scale
    far = q @ seen.entries_BNC[row, :10].T * scale
    total = near.exp().sum(1) + far.exp().sum(1) + seen.sink_H.exp()
    summed = (far.exp() / total[:, None]).sum(0)
    assert torch.allclose(target[row, t, :10], summed / summed.sum(), atol=1e-5)
    assert target[row, t, 10:].sum() == 0


def test_scores_are_those_the_indexer_chooses_by(model, batches):
    batch = batches[Position()]
    model.layers[1].attn.indexer.topk = 3
    with torch.no_grad():
        seen = reading_of(model, batch)
        scores = index_scores(seen)
        chosen = reading_of(model, batch, dense=False).selected_BTK
    visible = torch.arange(16) < 61 // 4
    ours = scores[0, 60].masked_fill(~visible, -1e9).topk(3).indices
    assert set(ours.tolist()) == set(chosen[0, 60].tolist())


def test_sparse_attention_teaches_only_about_the_chosen_entries(model, batches):
    """With fewer entries read than there are, target and scores are those of the read ones."""
    batch = batches[Position()]
    dense = reading_of(model, batch)
    model.layers[1].attn.indexer.topk = 3
    sparse = reading_of(model, batch, dense=False)
    chosen = sparse.selected_BTK.clamp(min=0)
    assert torch.allclose(index_scores(sparse), index_scores(dense).gather(2, chosen), atol=1e-6)
    visible, target = attention_over_entries(sparse)
    at, window = (0, 60), slice(60 - CONFIG.sliding_window + 1, 61)
    assert visible[at].all()
    q = sparse.q_BTHC[at] * sparse.q_BTHC.shape[-1] ** -0.5
    near, far = (q @ rows.T for rows in (sparse.window_BTC[0, window], sparse.entries_BNC[0]))
    read = far[:, chosen[at]].exp()
    total = near.exp().sum(1) + read.sum(1) + sparse.sink_H.exp()
    summed = (read / total[:, None]).sum(0)
    assert torch.allclose(target[at], summed / summed.sum(), atol=1e-5)


@pytest.mark.parametrize("dense", [True, False])
def test_the_loss_reaches_the_indexer_and_nothing_else(model, batches, dense):
    model.layers[1].attn.indexer.topk = 3
    batch = batches[Position()]
    indexer_loss(reading_of(model, batch, dense=dense), batch).backward()
    reached = {name for name, p in model.named_parameters() if p.grad is not None}
    assert reached == {name for name, _ in model.named_parameters() if ".indexer." in name}
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_queries_are_counted_as_they_are_summed(model, batches):
    batch = Batch(torch.full((2, 64), 5), torch.tensor([9, 40]))
    visible = (torch.arange(64) + 1) // 4 >= 2
    assert count_queries([batch, batch]) == 2 * int((batch.valid_BT() & visible).sum())
