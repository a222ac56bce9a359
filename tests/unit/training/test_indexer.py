"""Indexer warm-up: scores move towards the attention they replace, and nothing else moves."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from dsv4.data.batches import Batches, Mix, Position
from dsv4.data.shards import Shard
from dsv4.model.transformer import Transformer
from dsv4.model.weights import init_weights
from dsv4.presets import preset
from dsv4.training import indexer as warmup
from dsv4.training.schedule import Schedule

CONFIG = replace(
    preset("tiny"), vocab_size=64, num_hidden_layers=2, num_hash_layers=1, compress_ratios=(0, 4, 0)
)


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


def seen_by(model, batch):
    with warmup._watching(model) as seen, torch.no_grad():
        model(batch.ids_BT)
    return seen


def test_loss_falls_and_only_indexers_move(model, batches):
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    records = []
    warmup.train_indexers(model, batches, Schedule(40, lr=0.01, warmup=3), records.append)
    losses = [record["indexer_loss"] for record in records]
    assert len(losses) == 40 and np.mean(losses[-5:]) < 0.5 * np.mean(losses[:5])
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]) is (".indexer." not in name), name
        assert parameter.requires_grad is not name.endswith("gate.bias")


def test_target_is_the_attention_of_the_model(model, batches):
    """One query, by hand: joint softmax over window, entries and sink, summed over heads."""
    (seen,) = seen_by(model, batches[Position()])
    target, visible = warmup.attention_over_entries(seen)
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
    (seen,) = seen_by(model, batch)
    model.layers[1].attn.indexer.topk = 3
    with torch.no_grad():
        scores = warmup.index_scores(seen)
        place = (model.layers[1].attn.indexer)(
            seen.x_BTD, seen.query_BTQ, seen.rotation, seen.omega, 0, None, seen.numerics
        )
    visible = torch.arange(16) < 61 // 4
    ours = scores[0, 60].masked_fill(~visible, -1e9).topk(3).indices
    assert set(ours.tolist()) == set(place[0, 60].tolist())


def test_the_model_is_left_as_it_was(model, batches):
    ids = batches[Position()].ids_BT
    with torch.no_grad():
        before = model(ids).logits_BTV
        seen_by(model, batches[Position()])
        assert torch.equal(model(ids).logits_BTV, before)
    assert "forward" not in model.layers[1].attn.indexer.__dict__
