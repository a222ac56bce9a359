"""A spike: noticed, undone, passed with routing by older weights, and all of it resumable."""

import math
import os
import signal

import pytest
import torch
from tests.unit.training.small import new_model, new_trainer, numbers, read_log

from dsv4.data.batches import Position
from dsv4.errors import TrainingError
from dsv4.training.anticipation import Anticipation
from dsv4.training.checkpoint import Folder
from dsv4.training.routing import given_routing, recorded_routing
from dsv4.training.schedule import Schedule
from dsv4.training.spikes import SpikeDetector, SpikeSettings

PLAN = Schedule(steps=22, lr=5e-3, warmup=3)
SPIKES = SpikeSettings(lag=2, steps=2)
AT = 18
"""The step whose loss is made a spike the first time it is taken."""


def spiky(out, value=math.nan, **settings):
    """A trainer whose loss at step AT is `value`, unless it has already gone back once."""
    trainer = new_trainer(out, PLAN, spikes=SPIKES, checkpoint_every=6, **settings)
    real = trainer.objective.loss

    def loss(batch, batches, step):
        made = real(batch, batches, step)
        if step + 1 == AT and not trainer.recoveries and torch.is_grad_enabled():
            made.sums["loss"] = (value * made.sums["loss"][1], made.sums["loss"][1])
        return made

    trainer.objective.loss = loss
    return trainer


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    out = tmp_path_factory.mktemp("whole")
    assert spiky(out, value=50.0).run()
    return read_log(out)


def test_a_spike_takes_the_run_back_to_a_checkpoint(whole):
    events = [record for record in whole if "event" in record]
    steps = [record["step"] for record in whole if "event" not in record]
    (event,) = events
    assert (event["at"], event["step"], event["loss"]) == (AT, 12, 50.0)
    assert len(event["losses_before"]) == 5  # steps 13 to 17, that were undone
    assert steps == list(range(1, PLAN.steps + 1))


def test_routing_by_older_weights_changes_the_steps_after_it(whole, tmp_path):
    """Without a spike the same steps give other losses: the recovery took another way."""
    assert new_trainer(tmp_path, PLAN, checkpoint_every=6).run()
    calm = {record["step"]: record["loss"] for record in read_log(tmp_path)}
    spiked = {record["step"]: record["loss"] for record in whole if "event" not in record}
    assert all(spiked[step] == calm[step] for step in range(1, 13))
    assert any(spiked[step] != calm[step] for step in range(16, 21))


@pytest.mark.parametrize("cut", [14, 15, 21])
def test_a_run_cut_anywhere_around_a_spike_goes_on_exactly(whole, tmp_path, cut):
    trainer = spiky(tmp_path, value=50.0)
    seen = []

    def stop_there(record):
        seen.append(record)
        after = cut == 14 or any("event" in r for r in seen)
        if after and record["step"] == cut:
            os.kill(os.getpid(), signal.SIGTERM)

    assert not trainer.run(stop_there)
    again = spiky(tmp_path, value=50.0)
    assert again.resume() and again.step == cut
    assert again.run()
    assert read_log(tmp_path) == whole


def stopped_at(step, out):
    """A run of `spiky` that goes on in `out` and gets a signal when it is after that step again."""
    trainer = spiky(out, value=50.0)
    resumed = trainer.resume()

    def stop_there(record):
        if record["step"] == step and "event" not in record:
            os.kill(os.getpid(), signal.SIGTERM)

    assert not trainer.run(stop_there)
    return resumed, trainer.step


def test_a_checkpoint_from_before_the_spike_but_beyond_where_it_went_back_to_is_gone(
    whole, tmp_path
):
    """Stopped at 14, at 13 after the spike at 18, and going on from there."""
    assert stopped_at(14, tmp_path) == (False, 14)
    assert stopped_at(13, tmp_path) == (True, 13)
    left = [path.name for path in Folder(tmp_path / "checkpoints").all()]
    assert left == ["step-0000012", "step-0000012-r1", "step-0000013-r1"]
    last = spiky(tmp_path, value=50.0)
    assert last.resume() and (last.step, last.recoveries) == (13, 1)
    assert last.run()
    assert read_log(tmp_path) == whole


def test_killed_while_it_goes_back_a_run_meets_the_spike_again(whole, tmp_path, monkeypatch):
    real = Folder.save

    def killed(self, training, state, routes, *, regular):
        if state["recoveries"]:
            raise KeyboardInterrupt
        return real(self, training, state, routes, regular=regular)

    monkeypatch.setattr(Folder, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        spiky(tmp_path, value=50.0).run()
    monkeypatch.setattr(Folder, "save", real)
    again = spiky(tmp_path, value=50.0)
    assert again.resume() and (again.step, again.recoveries) == (12, 0)
    assert again.run()
    assert read_log(tmp_path) == whole


def test_checkpoints_are_in_the_order_of_steps_and_recoveries(tmp_path):
    names = ["step-0000012", "step-0000012-r9", "step-0000012-r10", "step-12345678"]
    for name in (*names, "step-0000012-backup", "step-0000099.part", "step-0000099.damaged"):
        (tmp_path / name).mkdir()
    assert [path.name for path in Folder(tmp_path).all()] == names


def test_a_loss_that_is_no_number_is_undone_too(tmp_path):
    trainer = spiky(tmp_path)
    records = []

    def stop_after_it(record):
        records.append(record)
        if "event" in record:
            os.kill(os.getpid(), signal.SIGTERM)

    trainer.run(stop_after_it)
    assert trainer.recoveries == 1 and trainer.step == 12
    assert all(math.isfinite(r["loss"]) for r in records[:-1])
    assert records[-1]["loss"] == "nan"


def test_without_recovery_a_loss_that_is_no_number_ends_the_run(tmp_path):
    trainer = new_trainer(tmp_path, PLAN)
    trainer.model.norm.weight.data.fill_(math.nan)
    with pytest.raises(TrainingError, match="step 1") as error:
        trainer.run()
    assert "learning rate" in error.value.hint


def test_detector():
    detector = SpikeDetector(SpikeSettings(window=20))
    assert not any(detector.is_spike(2 + 0.1 * (-1) ** i, "") for i in range(30))
    assert len(detector.losses) == 20
    assert not detector.is_spike(2.3, "")  # three deviations of 0.1
    assert detector.is_spike(2.8, "")
    assert 2.8 not in detector.losses
    assert not detector.is_spike(2.8, "rounded")  # another regime has no history yet
    assert detector.losses == [2.8]
    assert detector.is_spike(math.inf, "rounded")


def test_routes_are_those_of_the_weights_of_their_time(tmp_path):
    """Step t gets the choice of the weights of step t - lag, whatever happened since."""
    trainer = new_trainer(tmp_path, PLAN)
    model, objective = trainer.model, trainer.objective
    fetching = Anticipation(model, objective, lag=2)
    fetching.start(until=10)
    taken, versions = [], []
    position = Position()
    for step in range(5):
        versions.append({n: p.detach().clone() for n, p in model.state_dict().items()})
        fetched = fetching.fetch(position, step)
        position = fetched.position
        taken.append(fetched)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
    for step, fetched in enumerate(taken):
        model.load_state_dict(versions[max(0, step - 2)])
        with torch.no_grad(), recorded_routing(model) as route:
            objective.loss(fetched.batches[0], fetched.batches, step)
        assert all(map(torch.equal, route, fetched.routes[0]))


def test_given_experts_are_used_and_nothing_stays(tmp_path):
    model = new_model()
    ids = torch.arange(3, 35)[None]
    own = [choice.experts_NK for choice in model(ids).routing]
    with recorded_routing(model) as route:
        model(ids)
    assert all(map(torch.equal, route, own[1:]))  # layer 0 is hashed
    other = [(experts + 1) % 4 for experts in own[1:]]
    with given_routing(model, [*other, *other[:1]]):  # the MTP block's gate is the last
        given = [choice.experts_NK for choice in model(ids).routing]
    assert all(map(torch.equal, given[1:], other))
    assert all(torch.equal(a.experts_NK, b) for a, b in zip(model(ids).routing, own, strict=True))


def test_numbers_do_not_depend_on_recovery_being_on(tmp_path):
    plan = Schedule(steps=3, lr=5e-3, warmup=1)
    one, two = [], []
    new_trainer(tmp_path / "a", plan).run(one.append)
    new_trainer(tmp_path / "b", plan, spikes=SPIKES).run(two.append)
    assert numbers(one) == numbers(two)
