"""Engram tables: row Adam, balanced momentum, and who trains which part of a memory."""

import pytest
import torch
from tests.unit.training.small import MEMORY, counting_mix, new_model, new_trainer

from dsv4.model.transformer import Transformer
from dsv4.training.adam import AdamW, RowAdam, touched_rows
from dsv4.training.balanced import BalancedMomentum, balance
from dsv4.training.muon import UPDATE_RMS
from dsv4.training.optimizer import Optimizer, OptimizerSettings, is_muon, split_rows
from dsv4.training.schedule import Schedule


def gradients(steps, rows=6, width=4, seed=0):
    """Gradients of a table; row 5 is never touched, the others now and then."""
    draw = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        gradient = torch.randn(rows, width, generator=draw)
        gradient[torch.rand(rows, generator=draw) < 0.5] = 0
        gradient[5] = 0
        yield gradient


@pytest.mark.parametrize("sparse", [False, True])
def test_a_row_moves_as_under_dense_adam_given_only_its_own_steps(sparse):
    table = torch.randn(6, 4)
    start = table.clone()
    ours = RowAdam({"t": table})
    rows = [start[i].clone() for i in range(6)]
    alone = [AdamW({"r": row}, {"r": 0.0}) for row in rows]
    for step, gradient in enumerate(gradients(12)):
        rate = 0.1 / (step + 1)
        table.grad = gradient.to_sparse(1) if sparse else gradient
        ours.step(rate)
        for row, dense in zip(range(6), alone, strict=True):
            if gradient[row].any():
                rows[row].grad = gradient[row].clone()
                dense.step(rate)
    assert torch.allclose(table, torch.stack(rows), atol=1e-6)
    assert torch.equal(table[5], start[5])
    assert ours.counts["t"].tolist()[5] == 0 and ours.counts["t"].max() > 1


def test_an_untouched_row_costs_and_changes_nothing():
    table = torch.randn(100, 4)
    ours = RowAdam({"t": table})
    before = table.clone()
    read = torch.nn.functional.embedding(
        torch.tensor([7, 7, 3]), table.requires_grad_(), sparse=True
    )
    read.sum().backward()
    rows, values = touched_rows(table.grad)
    assert rows.tolist() == [3, 7] and values[:, 0].tolist() == [1, 2]  # twice in a batch: added
    ours.step(0.1)
    moved = (table != before).any(1).nonzero()[:, 0].tolist()
    assert moved == [3, 7]
    assert (ours.second["t"] != 0).any(1).nonzero()[:, 0].tolist() == [3, 7]


def test_rows_that_only_tokens_without_a_loss_read_are_left_alone():
    """The gradient of padding is zero, and the sparse one has a place for it all the same."""
    tables = torch.randn(10, 4).repeat(2, 1, 1)
    for table, sparse in zip(tables, (True, False), strict=True):
        ours, leaf = RowAdam({"t": table}), table.clone().requires_grad_()
        for read in ([3, 7], [3, 5], [3, 5]):
            rows = torch.nn.functional.embedding(torch.tensor(read), leaf, sparse=sparse)
            weight = torch.tensor([[1.0], [float(7 in read)]])  # row 5 has no loss at all
            (table.grad,) = torch.autograd.grad((rows * weight).sum(), leaf)
            ours.step(0.1)
        assert ours.counts["t"].tolist() == [0, 0, 0, 3, 0, 0, 0, 1, 0, 0]
    assert torch.equal(tables[0], tables[1])


def test_balanced_rows_and_columns():
    """After the last turn rows have length 1 exactly and columns nearly equal ones."""
    direction = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
    direction *= torch.logspace(-1, 1, 8)  # columns of very different sizes
    direction[3] = 0
    direction[4] *= 1e-6
    balanced = balance(direction)
    quiet = torch.zeros(64, dtype=torch.bool)
    quiet[3:5] = True
    assert balanced[quiet].abs().max() == 0
    assert torch.allclose(balanced[~quiet].norm(dim=1), torch.ones(62), atol=1e-5)
    columns = balanced.norm(dim=0)
    assert columns.max() / columns.min() < 1.05


def test_balanced_step_has_the_rms_of_the_report():
    table = torch.zeros(32, 16)
    table.grad = torch.randn(32, 16, generator=torch.Generator().manual_seed(1))
    BalancedMomentum({"t": table}).step(lr=1.0)
    assert table.square().mean().sqrt() == pytest.approx(UPDATE_RMS, rel=1e-3)


def test_who_trains_a_memory():
    with torch.device("meta"):
        named = dict(Transformer(MEMORY).named_parameters())
    at = "layers.1.engram."
    muon = {name for name, p in named.items() if name.startswith(at) and is_muon(name, p)}
    assert muon == {at + "wkv.weight"}
    assert split_rows(at + "wkv.weight", named[at + "wkv.weight"], MEMORY) == (64,) * 5
    model = new_model(MEMORY)
    optimizer = Optimizer(model, MEMORY, OptimizerSettings())
    assert set(optimizer.rows.first) == {at + "embed.weight"}
    assert {at + n for n in ("q_weight", "k_weight", "conv.weight")} <= set(optimizer.adamw.first)
    weights = dict(model.named_parameters())
    before = {name: p.detach().clone() for name, p in weights.items()}
    for parameter in weights.values():
        parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
    optimizer.step(lr=1.0)  # nothing but decay moves a weight without a gradient
    undecayed = {n for n in weights if n.startswith(at) and torch.equal(weights[n], before[n])}
    assert undecayed == {at + n for n in ("embed.weight", "q_weight", "k_weight", "conv.weight")}


def test_a_table_has_five_times_the_rate():
    model = new_model(MEMORY)
    table = model.layers[1].engram.embed.weight
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    before = table.detach().clone()
    Optimizer(model, MEMORY, OptimizerSettings()).step(lr=0.01)
    assert torch.allclose(before - table, torch.full_like(table, 0.05), rtol=1e-4)


@pytest.mark.parametrize("tables", ["adam", "balanced"])
def test_a_memory_learns_and_resumes_exactly(tables, tmp_path):
    plan = Schedule(steps=4, lr=5e-3, warmup=1)
    settings = {"optimizer": OptimizerSettings(tables=tables), "checkpoint_every": 2}

    def memory():
        model = new_model(MEMORY)
        model.layers[1].engram.embed.sparse = True
        return model

    model = memory()
    whole = new_trainer(tmp_path / "a", plan, model=model, **settings)
    whole.run()
    table = model.layers[1].engram.embed.weight
    read = table.abs().sum(1) > 0
    assert read.any() and not read.all()
    first = new_trainer(tmp_path / "b", plan, model=memory(), max_minutes=0.0, **settings)
    assert not first.run()
    again = new_trainer(tmp_path / "b", plan, model=memory(), **settings)
    assert again.resume() and again.run()
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, dict(again.model.named_parameters())[name]), name


def test_everything_can_be_trained_by_adamw(tmp_path):
    trainer = new_trainer(
        tmp_path,
        Schedule(steps=6, lr=3e-3, warmup=1),
        optimizer=OptimizerSettings(matrices="adamw"),
        mix=counting_mix(),
    )
    records = []
    trainer.run(records.append)
    assert not trainer.optimizer.muon.momenta
    assert records[-1]["loss"] < records[0]["loss"] - 0.2
