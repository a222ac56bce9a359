"""Training on a device that is not the CPU: nothing is left behind, the numbers are the same."""

import os
import signal
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
import torch
from tests.unit.training.emulated import pretended_device
from tests.unit.training.small import MEMORY, counting_mix, new_model, numbers

from dsv4 import ops
from dsv4.cli.training import PRECISIONS
from dsv4.data.batches import Mix
from dsv4.ops.compiled import compiling
from dsv4.training import Schedule, TrainConfig, loop
from dsv4.training.optimizer import OptimizerSettings
from dsv4.training.precision import Precision
from dsv4.training.pretrain import train_on
from dsv4.training.spikes import SpikeDetector, SpikeSettings

PHASES = Schedule(4, lr=0.01, warmup=2, decay=0.5, dense=0.25, indexer_steps=1)
"""A dense step, one of the indexers, two sparse ones."""
BALANCED = OptimizerSettings(tables="balanced")


def settings(out, schedule, precision, device, **changes):
    plan = TrainConfig(
        model=MEMORY,
        sources=(),
        corpora=out,
        out=out,
        schedule=schedule,
        batch_tokens=128,
        max_length=64,
        eval_every=2,
        eval_batches=1,
        checkpoint_every=2,
        precision=precision,
        device=device,
    )
    return replace(plan, **changes)


def masked_mix():
    """Every third token is not learned."""
    (shard,) = counting_mix().shards
    learned = np.packbits(np.arange(len(shard.tokens)) % 3 > 0)
    return Mix((replace(shard, learned=learned),), (1.0,), masked=True)


def trained(config, stop=lambda records: False):
    """The weights and records of a run; it is cut where `stop` says so."""
    mix = masked_mix()
    model, records = new_model(MEMORY), []

    def report(record):
        records.append(record)
        if stop(records):
            os.kill(os.getpid(), signal.SIGTERM)

    got = train_on(model, mix, mix.shards, config, report, lambda line: None).model
    kept = [*got.parameters(), *got.buffers()]
    assert all(type(t.detach()) is torch.Tensor and t.device.type == "cpu" for t in kept)
    return got.state_dict(), numbers(records)


def assert_equal(here, there):
    assert here[1] == there[1]
    assert all(torch.equal(here[0][name], there[0][name]) for name in here[0])


def test_the_device_refuses_what_is_on_the_cpu():
    with pretended_device() as device:
        far, near = torch.ones(2, device=device), torch.ones(2)
        for mistake in (
            lambda: far + near,
            lambda: torch.cat((near, far)),
            lambda: near[far.long()],
            lambda: torch.where(near > 0, far, far),
            lambda: near.add_(far),
            lambda: torch.nn.functional.linear(near, far.view(1, 2)),
        ):
            with pytest.raises(RuntimeError, match="on the CPU"):
                mistake()
        assert (far + torch.tensor(2.0))[torch.tensor([0])].tolist() == [3.0]


@pytest.mark.parametrize("precision", ["float32-compiled", "bfloat16"])
def test_every_phase(tmp_path, monkeypatch, precision):
    """Masked rows, MTP, hash layers, an Engram; recomputed, rounded at last, validated, saved."""
    monkeypatch.setattr(compiling, "compiled", lambda function, dynamic=False: function)
    monkeypatch.setattr(loop, "DETAILS_EVERY", 2)
    changes = {"recompute": True, "quantise_from": 0.75}
    here = trained(settings(tmp_path / "a", PHASES, precision, "cpu", **changes))
    with pretended_device() as device:
        there = trained(settings(tmp_path / "b", PHASES, precision, device, **changes))
    assert [r["regime"].split(",")[0] for r in here[1]] == ["dense", "indexer", "sparse", "sparse"]
    assert_equal(here, there)
    assert ops.linear.backend == "reference"


@pytest.mark.parametrize(("precision", "limit"), [("float32-compiled", 1e-4), ("bfloat16", 0.01)])
def test_precisions_begin_with_the_same_loss(tmp_path, monkeypatch, precision, limit):
    monkeypatch.setattr(compiling, "compiled", lambda function, dynamic=False: function)
    plan = replace(PHASES, steps=2, warmup=0, dense=1.0, indexer_steps=0)
    plain, ours = (
        trained(settings(tmp_path / form, plan, form, "cpu"))[1] for form in ("float32", precision)
    )
    for mine, reference in zip(ours, plain, strict=True):
        assert mine["loss"] == pytest.approx(reference["loss"], rel=limit)
    assert set(PRECISIONS) == set(get_args(Precision))


def test_a_spike_and_a_cut_while_routing_by_older_weights(tmp_path, monkeypatch):
    """Routes fetched ahead go through a checkpoint, and back to the device."""

    def spikes(detector, loss, regime):
        calls.append(loss)
        return len(calls) == 4

    monkeypatch.setattr(SpikeDetector, "is_spike", spikes)
    plan = Schedule(5, lr=0.01, warmup=2, mtp=(0.3, 0.0), decay=0.8, dense=1.0)
    changes = {"spikes": SpikeSettings(lag=1, steps=9), "optimizer": BALANCED}

    def both_runs(out, device):
        calls.clear()
        config = settings(out, plan, "float32", device, **changes)
        cut = trained(config, stop=lambda records: len(records) == 5)
        rest = trained(config)
        assert [r["step"] for r in cut[1] + rest[1]] == [1, 2, 3, 2, 3, 4, 5]
        return rest

    calls = []
    here = both_runs(tmp_path / "a", "cpu")
    with pretended_device() as device:
        there = both_runs(tmp_path / "b", device)
    assert_equal(here, there)
