"""What a trained Engram knows lies in its table: with one row per hash there is nothing to know."""

from dataclasses import replace

import numpy as np
import torch
from tests.unit.training.small import SMALL, new_model

from dsv4.data.batches import Batch
from dsv4.engram import EngramConfig
from dsv4.training.loss import cross_entropy
from dsv4.training.optimizer import Optimizer, OptimizerSettings

TABLE = EngramConfig((1,), 3, 2, 32, 997, SMALL.vocab_size)


def random_successors(rows, length):
    """Sequences in which the next token is a random, fixed function of the last two."""
    draw = np.random.default_rng(0)
    follows = draw.integers(3, 64, (64, 64))
    ids = draw.integers(3, 64, (rows, length))
    for t in range(2, length):
        ids[:, t] = follows[ids[:, t - 2], ids[:, t - 1]]
    return torch.from_numpy(ids)


def trained_loss(engram, steps=40):
    model = new_model(replace(SMALL, engram=engram))
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("engram" in name)  # nothing else may learn the function
    optimizer = Optimizer(model, model.config, OptimizerSettings())
    ids = random_successors(16, 32)
    batch = Batch(ids, torch.full((16,), 32))
    for _ in range(steps):
        summed, count = cross_entropy(model, model.features(batch.ids_BT), batch, ahead=1)
        (summed / count).backward()
        optimizer.step(1e-2)
    return float(summed.detach()) / count


def test_a_table_of_one_row_learns_less_than_a_full_one():
    full, one = trained_loss(TABLE), trained_loss(replace(TABLE, vocab_size=1))
    assert full < one - 0.3
