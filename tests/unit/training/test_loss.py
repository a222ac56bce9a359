"""The objective: masks, normalisation, balance."""

import pytest
import torch
from tests.unit.training.stand_in import Bigram, Routing
from torch import nn

from dsv4.data.batches import Batch
from dsv4.training.loss import (
    balance_loss,
    compute_losses,
    count_targets,
    cross_entropy,
    expert_load,
    move_biases,
)


def batch_of(*rows, pad=2):
    width = max(map(len, rows)) + 2
    ids = torch.tensor([[*row, *[pad] * (width - len(row))] for row in rows])
    return Batch(ids, torch.tensor([len(row) for row in rows]))


ROWS = ([5, 9, 11, 30], [7, 8], [40, 41, 42, 43, 44, 45])


def losses(batch, targets, **settings):
    model = Bigram()
    found = compute_losses(model, batch, targets=targets, mtp_weight=0.3, hash_layers=0, **settings)
    found.total.backward()
    return found, {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


def test_cross_entropy_counts_real_targets_only():
    batch = batch_of(*ROWS)
    model = Bigram()
    output = model.features(batch.ids_BT)
    logits = model.head(output.x_BTD).detach()
    for ahead in (1, 2):
        want, count = 0.0, 0
        for b, row in enumerate(ROWS):
            for t in range(len(row) - ahead):
                want += float(
                    nn.functional.cross_entropy(logits[b, t], torch.tensor(row[t + ahead]))
                )
                count += 1
        summed, counted = cross_entropy(model, output, batch, ahead)
        assert counted == count and float(summed.detach()) == pytest.approx(want, rel=1e-5)


def test_rows_are_isolated_and_padding_is_harmless():
    """A batch has the loss and the gradients of its documents, each alone without padding."""
    targets = sum(len(row) - 1 for row in ROWS)
    together, gradients = losses(batch_of(*ROWS), targets)
    single = [losses(Batch(torch.tensor([row]), torch.tensor([len(row)])), targets) for row in ROWS]
    assert float(together.token) == pytest.approx(sum(float(s.token) for s, _ in single), rel=1e-5)
    assert float(together.mtp) == pytest.approx(sum(float(s.mtp) for s, _ in single), rel=1e-5)
    for name, gradient in gradients.items():
        if "gate" not in name:  # its gradient is that of the balance loss, a mean over rows
            assert torch.allclose(gradient, sum(g[name] for _, g in single), atol=1e-5)


def test_what_the_padding_holds_does_not_matter():
    first, gradients = losses(batch_of(*ROWS, pad=2), 9)
    second, others = losses(batch_of(*ROWS, pad=33), 9)
    assert first.token == second.token and first.balance == second.balance
    assert all(torch.equal(gradients[n], others[n]) for n in gradients)


def test_micro_batches_add_up_to_one_large_batch():
    whole, gradients = losses(batch_of(*ROWS), count_targets([batch_of(*ROWS)]))
    parts = [losses(batch_of(*rows), 9) for rows in (ROWS[:2], ROWS[2:])]
    assert float(whole.total.detach()) == pytest.approx(
        sum(float(p.total.detach()) for p, _ in parts), rel=1e-3
    )
    name = "embed.weight"
    assert torch.allclose(gradients[name], sum(g[name] for _, g in parts), atol=1e-5)


def test_balance_loss_is_one_when_even_and_grows_when_not():
    valid = torch.ones(1, 4, dtype=torch.bool)
    even = Routing(torch.ones(4, 4), torch.tensor([[0, 1], [2, 3], [0, 1], [2, 3]]))
    assert float(balance_loss(even, valid)) == pytest.approx(1.0)
    scores = torch.tensor([[1.0, 1.0, 0.0, 0.0]] * 4)
    skewed = Routing(scores, torch.tensor([[0, 1]] * 4))
    assert float(balance_loss(skewed, valid)) == pytest.approx(2.0)


def test_hash_layers_have_no_balance_loss_and_no_load():
    found = compute_losses(Bigram(), batch_of(*ROWS), targets=9, mtp_weight=0.0, hash_layers=1)
    assert found.balance == 0 and found.load == {}


def test_load_counts_real_tokens():
    routing = Routing(torch.ones(6, 4), torch.tensor([[0, 1], [0, 2], [3, 2]] * 2))
    valid = torch.tensor([[True, True, False], [True, False, False]])
    assert expert_load(routing, valid).tolist() == [3, 2, 1, 0]


def test_biases_move_against_load():
    bias = torch.zeros(4)
    move_biases({3: bias}, {3: torch.tensor([10, 2, 4, 4])}, 0.001)
    assert bias.tolist() == pytest.approx([-0.001, 0.001, 0.001, 0.001])
