"""GRPO end to end: a toy reward rises, a cut run goes on to the bit, rollouts can be read."""

import json
import os
import signal
from functools import partial

import pytest
import torch
from tests.unit.training.toy_policy import STOP, LikesEven, share_of_even, tiny

from dsv4.data.batches import Position
from dsv4.errors import UsageError
from dsv4.training.checkpoint import Folder
from dsv4.training.distill_run import DistillConfig
from dsv4.training.grpo import Clip
from dsv4.training.grpo_objective import GrpoObjective, GrpoSettings
from dsv4.training.loop import LoopSettings, Trainer
from dsv4.training.optimizer import OptimizerSettings
from dsv4.training.rated import pack, unpack
from dsv4.training.rl import RlConfig
from dsv4.training.rollout import Actor
from dsv4.training.rollout_source import RolloutSource
from dsv4.training.schedule import Schedule


def make(out, steps, *, beta=0.0, lr=2e-3, prompts=4, group=8, **values):
    model = tiny()
    for name, parameter in model.named_parameters():
        if "gate." in name:
            parameter.requires_grad_(False)
    source = RolloutSource(
        Actor(model, frozenset({STOP}), {}), LikesEven(max_tokens=3), prompts, group,
        out / "rollouts",
    )  # fmt: skip
    settings = GrpoSettings(clip=Clip(beta=beta), **values)
    objective = GrpoObjective(model, source, settings, tiny() if beta else None, batch_tokens=512)
    schedule = Schedule(steps=steps, lr=lr, warmup=1, decay=0.0)
    loop = LoopSettings(
        out, schedule, OptimizerSettings("adamw", weight_decay=0.0, eps=1e-8), checkpoint_every=50
    )
    return Trainer(model, model.config, objective, loop)


def metrics(out):
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [
        {k: v for k, v in r.items() if k not in ("seconds", "tokens_per_second")} for r in records
    ]


def distance(model, reference):
    """KL divergence after some prompt."""
    ids = torch.tensor([[5, 6, 7, 8, 9, 10]])
    with torch.no_grad():
        p, q = (torch.log_softmax(m(ids).logits_BTV[0, -1], -1) for m in (model, reference))
    return float((p.exp() * (p - q)).sum())


def test_the_reward_rises(tmp_path):
    trainer = make(tmp_path, steps=8, lr=4e-3)
    before = share_of_even(trainer.model)
    gate = trainer.model.layers[2].ffn.gate
    frozen = gate.weight.clone(), gate.bias.clone()
    assert trainer.run()
    records = metrics(tmp_path)
    assert before < 0.6 < 0.75 < share_of_even(trainer.model)
    assert records[-1]["reward"] > records[0]["reward"] + 0.1  # of a few dozen answers each
    assert {"entropy", "kl", "clipped", "log_ratio", "length", "truncated", "score.even"} <= set(
        records[0]
    )
    assert torch.equal(gate.weight, frozen[0]) and torch.equal(gate.bias, frozen[1])


def test_the_reference_holds_the_policy(tmp_path):
    values = {"steps": 10, "lr": 1e-3, "prompts": 2}
    free, held = make(tmp_path / "free", **values), make(tmp_path / "held", beta=10.0, **values)
    free.run(), held.run()
    gone = [distance(trainer.model, tiny()) for trainer in (free, held)]
    assert gone[1] < gone[0] / 2
    records = metrics(tmp_path / "held")
    assert records[0]["kl"] < 1e-3 < records[-1]["kl"]  # first: what the engine's rounding leaves


def test_a_run_cut_within_a_batch_goes_on_to_the_same_numbers(tmp_path):
    """Two updates a batch; cut after an odd number of steps, with half a batch to learn from."""
    values = {"updates": 2, "beta": 0.1}
    make(tmp_path / "whole", 4, **values).run()
    cut = make(tmp_path / "cut", 4, **values)

    def stop_there(record):
        if record["step"] == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    assert not cut.run(stop_there)
    again = make(tmp_path / "cut", 4, **values)
    assert again.resume() and again.step == 1
    assert again.run()
    assert metrics(tmp_path / "cut") == metrics(tmp_path / "whole")
    ends = [Folder(tmp_path / name / "checkpoints").all()[-1] for name in ("cut", "whole")]
    assert len({(end / "weights-00001.safetensors").read_bytes() for end in ends}) == 1


@pytest.mark.parametrize("change", [{"updates": 1}, {"prompts": 6}, {"prompts": 3}, {"group": 4}])
def test_a_batch_is_learned_as_it_was_dealt_whatever_the_sizes_are_now(tmp_path, change):
    def stop_there(record):
        if record["step"] == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    assert not make(tmp_path, 3, updates=2).run(stop_there)
    make(tmp_path / "whole", 3, updates=2).run()
    again = make(tmp_path, 3, **{"updates": 2, **change})
    assert again.resume() and again.step == 1
    assert again.run()  # a step of the batch that was cut, and one of a batch of the new size
    assert metrics(tmp_path)[:2] == metrics(tmp_path / "whole")[:2]
    sizes = {"prompts": 4, "group": 8, "updates": 2, **change}
    log = (tmp_path / "rollouts" / "000001.jsonl").read_text().splitlines()
    assert len(log) == sizes["prompts"] * sizes["group"]


def test_a_batch_that_an_earlier_version_cut_is_dealt_by_the_settings(tmp_path):
    trainer = make(tmp_path, 2, updates=2)
    objective = trainer.objective
    objective.next(Position(), 0)
    state = objective.state()
    again = make(tmp_path / "again", 2, updates=2).objective
    again.restore({name: tensor for name, tensor in state.items() if name != "cuts"})
    again.next(Position(0, 1), 1)
    objective.next(Position(0, 1), 1)
    assert [one.sample.ids for one in again._step] == [one.sample.ids for one in objective._step]


@pytest.mark.parametrize("made", [RlConfig, partial(DistillConfig, teachers=())])
def test_weights_are_rounded_from_the_beginning_or_never(made, tmp_path):
    with pytest.raises(UsageError, match=r"rounded from 0\.5"):
        values = {"rollouts": None} if made is RlConfig else {"material": None}
        made(
            init=tmp_path, out=tmp_path, schedule=Schedule(1, lr=1e-3, warmup=1),
            quantise_from=0.5, **values,
        )  # fmt: skip


def test_every_answer_is_written_for_people(tmp_path):
    make(tmp_path, 2).run()
    files = sorted((tmp_path / "rollouts").iterdir())
    assert [file.name for file in files] == ["000000.jsonl", "000001.jsonl"]
    rows = [json.loads(line) for line in files[1].read_text().splitlines()]
    assert len(rows) == 32
    for group in range(4):
        rewards = [row["reward"] for row in rows[8 * group : 8 * group + 8]]
        assert len({row["prompt"] for row in rows[8 * group : 8 * group + 8]}) == 1
        mean = sum(rewards) / 8
        assert [row["advantage"] for row in rows[8 * group : 8 * group + 8]] == pytest.approx(
            [reward - mean for reward in rewards]
        )


def test_truncated_answers_teach_nothing_if_so_told(tmp_path):
    trainer = make(tmp_path, 1, learn_truncated=False)
    batches, _ = trainer.objective.next(trainer.position, 0)
    taught = [rated for batch in batches for rated in batch.rated]
    assert any(not rated.sample.complete for rated in trainer.objective._step)
    assert all(rated.sample.complete for rated in taught) or len(taught) == 1


def test_samples_survive_a_checkpoint_to_the_bit(tmp_path):
    trainer = make(tmp_path, 1)
    trainer.objective.next(trainer.position, 0)
    rated = trainer.objective._step
    back = unpack(pack(rated))
    for a, b in zip(rated, back, strict=True):
        assert (a.kind, a.score, a.reward, a.advantage) == (b.kind, b.score, b.reward, b.advantage)
        assert (a.sample.ids, a.sample.logprobs) == (b.sample.ids, b.sample.logprobs)
        assert torch.equal(a.sample.experts_TLK, b.sample.experts_TLK)
    assert unpack(pack([])) == []


@pytest.mark.parametrize("values", [{"group": 1}, {"updates": 0}, {"prompts": 2, "updates": 3}])
def test_settings_out_of_range_are_refused(tmp_path, values):
    with pytest.raises(UsageError):
        make(tmp_path, 1, **values)
