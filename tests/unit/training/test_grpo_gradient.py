"""What a GRPO step learns from: which weights drew the answers, how likely they were then, what
computed them. Learning goes on when one of these is wrong, so the numbers are computed by hand."""

import math
from dataclasses import dataclass, field, replace

import pytest
import torch
from tests.unit.training.toy_policy import Given, LikesEven, even_share, tiny, toy_folder

from dsv4 import checkpoint
from dsv4.data.batches import Position
from dsv4.encoding.tokenizer import Tokenizer
from dsv4.model.weights import get_weight, set_weight, weights
from dsv4.numerics.quantized import QuantizedTensor
from dsv4.training.grpo import Clip
from dsv4.training.grpo_objective import GrpoObjective, GrpoSettings
from dsv4.training.loop import LoopSettings, Trainer
from dsv4.training.optimizer import OptimizerSettings
from dsv4.training.policy import ROUTERS, load_policy, stop_ids
from dsv4.training.rl import RlConfig, train_rl
from dsv4.training.rollout import Actor, Ask
from dsv4.training.rollout_config import RolloutConfig
from dsv4.training.rollout_source import RolloutSource
from dsv4.training.routing import given_routing, recorded_routing
from dsv4.training.schedule import Schedule
from dsv4.training.task_questions import Kind

PROMPTS, GROUP = 4, 4
FEW, ALL = 24, 4096
"""Ids of a micro-batch: one or two answers, and all of them."""
CLIP = Clip(low=0.05, high=0.05, beta=0.0, delta=0.02)
"""Narrow, so that the weights of `moved` are beyond it for some ids and answers."""


class OneIsEasy(LikesEven):
    """The same but for the second question drawn, whose answers are all as good."""

    drawn = 0

    def draw(self, rng):
        self.drawn += 1
        question = super().draw(rng)
        return replace(question, grade=lambda _: 0.5) if self.drawn == 2 else question


@pytest.fixture(scope="module")
def samples():
    """Answers of `tiny()`, of many lengths."""
    asks = [
        Ask(tuple(range(3 + n, 7 + 3 * n)), 2 + seed, 100 * n + seed)
        for n in range(PROMPTS)
        for seed in range(GROUP)
    ]
    drawn = Actor(tiny(), frozenset(), {}).sample(asks)
    return [replace(sample, complete=True) for sample in drawn]


@pytest.fixture(scope="module")
def moved():
    """`tiny()` some steps later: its matrices, those of routers too, say something else."""
    model, rng = tiny(), torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.is_floating_point() and parameter.dim() == 2:
                noise = torch.randn(parameter.shape, generator=rng)
                parameter.add_(0.3 * noise * parameter.std())
    return model


def objective(model, samples, out, batch_tokens=ALL):
    source = RolloutSource(Given(samples), OneIsEasy(), PROMPTS, GROUP, out / "rollouts")
    return GrpoObjective(model, source, GrpoSettings(clip=CLIP), batch_tokens=batch_tokens)


@dataclass(frozen=True)
class Step:
    """Micro-batches of one step, what each gave, and the gradients, summed as the loop does."""

    batches: list
    losses: list
    grads: dict

    @property
    def total(self):
        return sum(float(loss.total.detach()) for loss in self.losses)

    def mean(self, metric):
        sums = [loss.sums[metric] for loss in self.losses]
        return sum(x for x, _ in sums) / sum(weight for _, weight in sums)


@pytest.fixture(scope="module")
def steps(moved, samples, tmp_path_factory):
    """The same step, cut by FEW and by ALL."""
    made = {}
    for batch_tokens in (FEW, ALL):
        moved.zero_grad()
        grpo = objective(moved, samples, tmp_path_factory.mktemp("step"), batch_tokens)
        batches, _ = grpo.next(Position(), 0)
        losses = []
        for batch, route in zip(batches, grpo.routes(batches), strict=True):
            with given_routing(moved, route):
                losses.append(grpo.loss(batch, batches, 0))
                losses[-1].total.backward()
        grads = {n: p.grad.clone() for n, p in moved.named_parameters() if p.grad is not None}
        made[batch_tokens] = Step(batches, losses, grads)
    return made


def test_many_micro_batches_have_the_gradient_of_one(steps):
    """Answers weigh the same in whichever they are, since the loss is divided by all of a step."""
    one, many = steps[ALL], steps[FEW]
    assert len(one.batches) == 1 and len({len(batch.rated) for batch in many.batches}) > 1
    assert many.total == pytest.approx(one.total, rel=1e-4)
    assert one.grads.keys() == many.grads.keys() and len(one.grads) > 50
    for name, grad in one.grads.items():
        # float32 sums in another order, which cancel more in some than in others
        gap = float((grad - many.grads[name]).norm())
        assert gap < 2e-3 * float(grad.norm()) + 1e-9, name


def by_hand(model, samples):
    """(loss, sum of log(pi_old / pi), clipped ids, whether it is masked) of every answer that is
    better or worse than others, one at a time, in float64 from the logits on."""
    rewards = [even_share(sample.answer) for sample in samples]
    rewards[GROUP : 2 * GROUP] = [0.5] * GROUP
    for i, sample in enumerate(samples):
        first = i - i % GROUP
        advantage = rewards[i] - sum(rewards[first : first + GROUP]) / GROUP
        if not advantage:
            continue
        with torch.no_grad(), given_routing(model, sample.experts_TLK[:, 1:].unbind(1)):
            logits = model(torch.tensor([sample.ids[:-1]])).logits_BTV[0].double()
        now = torch.log_softmax(logits, -1)[len(sample.prompt) - 1 :]
        logp = [float(row[token]) for row, token in zip(now, sample.answer, strict=True)]
        drift = [old - new for old, new in zip(sample.logprobs, logp, strict=True)]
        masked = advantage < 0 and sum(drift) / len(drift) > CLIP.delta
        gains, clipped = [], 0
        for gap in drift:
            ratio = math.exp(-gap)
            bounded = min(max(ratio, 1 - CLIP.low), 1 + CLIP.high)
            gains.append(0.0 if masked else min(ratio * advantage, bounded * advantage))
            clipped += ratio > 1 + CLIP.high if advantage > 0 else ratio < 1 - CLIP.low
        yield -sum(gains) / len(gains), sum(drift), clipped, masked


def test_answers_are_compared_with_how_likely_they_were_when_drawn(moved, samples, steps):
    """The weights have moved since: ratios are to what the engine recorded, id by id. Answers as
    good as their group count in the mean, though nobody reads them."""
    losses, drifts, clipped, masked = zip(*by_hand(moved, samples), strict=True)
    answers = [rated.sample.answer for rated in steps[ALL].batches[0].rated]
    ids = sum(map(len, answers))
    assert len(losses) == len(answers) <= len(samples) - GROUP
    assert 0.1 < sum(clipped) / ids < 0.9 and 0 < sum(masked) < len(masked)
    for step in steps.values():
        # log-probabilities of size 5 in float32, differences of size 0.2
        assert step.total == pytest.approx(sum(losses) / len(samples), rel=1e-3)
        assert step.mean("loss") == pytest.approx(sum(losses) / len(losses), rel=1e-3)
        assert step.mean("log_ratio") == pytest.approx(sum(drifts) / ids, rel=1e-3)
        assert step.mean("clipped") == sum(clipped) / ids
        assert step.mean("masked") == sum(masked) / len(masked)


def test_routes_are_the_experts_that_drew_the_answers(moved, samples, tmp_path):
    made = objective(moved, samples, tmp_path, FEW)
    batches, _ = made.next(Position(), 0)
    routes = made.routes(batches)
    assert len(routes) == len(batches) > 1
    for batch, route in zip(batches, routes, strict=True):
        assert len(route) == 2  # of three layers the first hashes
        for layer, experts in enumerate(route, 1):
            rows = experts.view(len(batch.rated), -1, 3)
            for row, rated in zip(rows, batch.rated, strict=True):
                length = len(rated.sample.ids) - 1
                assert torch.equal(row[:length], rated.sample.experts_TLK[:, layer])
                assert bool((row[length:] == -1).all())


def test_the_loop_computes_with_the_experts_that_drew_the_answers(samples, tmp_path):
    """Experts that no router would choose here, so that it is seen whose choice they are."""
    rng = torch.Generator().manual_seed(0)
    odd = []
    for sample in samples:
        chance = torch.rand(*sample.experts_TLK.shape[:2], 6, generator=rng)
        odd.append(replace(sample, experts_TLK=chance.argsort(-1)[..., :3]))
    model = tiny()
    made = objective(model, odd, tmp_path)
    loop = LoopSettings(tmp_path, Schedule(1), OptimizerSettings("adamw"), bias_speed=0.0)
    with recorded_routing(model) as found:
        assert Trainer(model, model.config, made, loop).run()
    (batch,), _ = objective(model, odd, tmp_path).next(Position(), 0)  # once more
    assert len(found) == 2
    for layer, experts in enumerate(found, 1):
        rows = experts.view(len(batch.rated), -1, 3)
        for row, rated in zip(rows, batch.rated, strict=True):
            wanted = rated.sample.experts_TLK[:, layer]
            assert torch.equal(row[: len(wanted)], wanted)


class Watched:
    """An `Actor` that notes what it is asked and answers; no answer counts as cut off."""

    def __init__(self, actor, heard):
        self.actor, self.heard = actor, heard

    def sample(self, asks, temperature=1.0):
        drawn = self.actor.sample(asks, temperature)
        self.heard.append((list(asks), drawn))
        return [replace(sample, complete=True) for sample in drawn]


@dataclass(frozen=True)
class WatchedRollouts(RolloutConfig):
    """Rollouts as they are, but for questions that random weights earn something with."""

    heard: list = field(default_factory=list)

    def source(self, *args, **kwargs):
        made = super().source(*args, **kwargs)
        actor = Watched(made.actor, self.heard)
        return replace(made, actor=actor, questions=LikesEven(max_tokens=3))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return toy_folder(tmp_path_factory.mktemp("rl") / "model")


def train(folder, out, steps=1, lr=1e-2, **values):
    """The model after so many steps in all, and (asks, answers) of those that were done now."""
    rollouts = WatchedRollouts((Kind("arithmetic", "off"),), prompts=2, group=4)
    schedule = Schedule(steps, lr=lr, warmup=1, decay=0.0)
    settings = {"grpo": GrpoSettings(clip=Clip(beta=0.0)), **values}
    result = train_rl(
        RlConfig(init=folder, out=out, rollouts=rollouts, schedule=schedule, **settings)
    )
    assert result.finished
    return result.model, rollouts.heard


@pytest.fixture(scope="module")
def begun(folder, tmp_path_factory):
    """A run after one step: its folder, its model, what was drawn."""
    out = tmp_path_factory.mktemp("rl") / "run"
    return out, *train(folder, out, frozen=("attn.wkv",))


def test_routers_stay_and_so_does_what_else_is_to_be_frozen(folder, begun):
    """Which experts answer is not what is rewarded, though a gradient would reach the routers."""
    _, model, _ = begun
    before = dict(load_policy(folder, quantise=True).named_parameters())
    differ = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    kept = {name for name in before if ROUTERS in name or "attn.wkv" in name}
    assert {"layers.2.ffn.gate.weight", "layers.2.attn.wkv.weight"} <= kept
    assert not differ & kept
    assert {"head.weight", "layers.2.attn.wq_a.weight"} <= differ
    assert any(".ffn.experts." in name for name in differ)


def logprobs(model, asks, folder):
    ends = stop_ids(Tokenizer.from_folder(folder))
    return [sample.logprobs for sample in Actor(model, ends, {}).sample(asks)]


def with_plain_weights(folder, model):
    """The model of a folder, quantised weights as they are stored there, others as in `model`,
    since they are stored in bfloat16 and compute, in rollouts as well, in float32."""
    made = checkpoint.load(folder)
    for name, value in list(weights(made)):
        if not isinstance(value, QuantizedTensor):
            set_weight(made, name, get_weight(model, name))
    return made


def test_answers_are_drawn_by_the_model_that_is_exported(folder, begun, tmp_path):
    """First by the folder's, then by what a step made of it, rounded as its export is: equal to
    the bit, for the engine computes otherwise with weights that only have rounded values."""
    out, model, first = begun
    checkpoint.export_released(model, tmp_path)
    _, second = train(folder, out, steps=2, frozen=("attn.wkv",))
    served = (
        with_plain_weights(folder, load_policy(folder, quantise=True)),
        with_plain_weights(tmp_path, model),
    )
    for (asks, drawn), exported in zip((*first, *second), served, strict=True):
        assert [sample.logprobs for sample in drawn] == logprobs(exported, asks, folder)
    asks, drawn = second[0]
    assert [sample.logprobs for sample in drawn] != logprobs(model, asks, folder)


def test_answers_are_drawn_by_what_is_trained_if_nothing_is_to_be_rounded(folder, tmp_path):
    model, _ = train(folder, tmp_path, quantise_from=1.0)
    _, [(asks, drawn)] = train(folder, tmp_path, steps=2, quantise_from=1.0)
    assert [sample.logprobs for sample in drawn] == logprobs(model, asks, folder)


def test_a_small_step_leaves_the_scales_of_the_folder(folder, tmp_path):
    """Masters begin where they round to what is stored and stay there; else the least growth of
    the largest value of a block would double its scale, and round all the others anew."""
    model, _ = train(folder, tmp_path / "run", lr=1e-7)
    checkpoint.export_released(model, tmp_path / "exported")
    before, after = (dict(weights(checkpoint.load(f))) for f in (folder, tmp_path / "exported"))
    assert not torch.equal(model.head.weight, load_policy(folder, quantise=True).head.weight)
    for name, value in before.items():
        if isinstance(value, QuantizedTensor):
            assert torch.equal(value.scales(), after[name].scales()), name
