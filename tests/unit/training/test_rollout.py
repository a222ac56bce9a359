"""Rollouts: the engine's answers, their log-probabilities and routing, as training sees them."""

import pytest
import torch
from tests.unit.training.toy_policy import STOP, tiny

from dsv4.engine.core import MOST_RUNNING, Core
from dsv4.ops.fused import available
from dsv4.training.answers import collate, hidden_states
from dsv4.training.rollout import Actor, Ask
from dsv4.training.rounding import released_formats, rounded_weights
from dsv4.training.routing import given_routing

ASKS = [Ask(tuple(range(3, 3 + n)), 12, seed) for n, seed in ((5, 0), (5, 1), (9, 2), (40, 3))]
LONG = tuple(i % 60 + 3 for i in range(300))


@pytest.fixture(scope="module")
def model():
    return tiny()


@pytest.fixture(scope="module")
def samples(model):
    return Actor(model, frozenset({STOP}), {}).sample(ASKS)


def test_answers_are_in_order_and_follow_from_their_seeds(model, samples):
    assert [s.prompt for s in samples] == [ask.ids for ask in ASKS]
    assert samples[0].answer != samples[1].answer
    alone = Actor(model, frozenset({STOP}), {}).sample(ASKS[1:2])[0]
    assert (alone.answer, alone.logprobs) == (samples[1].answer, samples[1].logprobs)


@pytest.mark.skipif(not available(), reason="other policies promise no equal bits")
def test_a_group_reads_its_prompt_once_and_answers_as_each_alone(model, monkeypatch):
    read = []
    monkeypatch.setattr("dsv4.training.rollout.Core", counting(read))
    asks = [Ask(LONG, 12, seed) for seed in range(3)]
    together = Actor(model, frozenset({STOP}), {}).sample(asks)
    assert sum(read) == 300 + 2 * (300 - 256)  # whole blocks are shared
    assert len({sample.answer for sample in together}) == 3
    for ask, sample in zip(asks, together, strict=True):
        alone = Actor(model, frozenset({STOP}), {}).sample([ask])[0]
        assert (sample.answer, sample.logprobs) == (alone.answer, alone.logprobs)
        assert torch.equal(sample.experts_TLK, alone.experts_TLK)


def test_prompts_that_begin_alike_keep_their_own_routing(model):
    """More than the engine runs at a time: the last begin when the first are over."""
    asks = [Ask((*LONG[:140], n % 60 + 3, n // 60 + 3), 1, n) for n in range(MOST_RUNNING + 2)]
    samples = Actor(model, frozenset({STOP}), {}).sample(asks)
    assert all(int(sample.experts_TLK.min()) >= 0 for sample in samples)


def counting(read):
    """Engines that note in `read` how many ids of prompts each of their steps reads."""

    class Counting(Core):
        def step(self):
            before = self.counters.prompt_tokens
            super().step()
            read.append(self.counters.prompt_tokens - before)

    return Counting


def test_the_stop_id_belongs_to_the_answer_with_its_log_probability(model):
    every = Actor(model, frozenset(range(64)), {}).sample(ASKS)
    assert all(s.complete and len(s.answer) == 1 and s.logprobs[0] < 0 for s in every)
    none = Actor(model, frozenset(), {}).sample(ASKS)
    assert all(not s.complete and len(s.answer) == len(s.logprobs) == 12 for s in none)
    assert [s.answer[0] for s in every] == [s.answer[0] for s in none]
    assert [s.logprobs[0] for s in every] == [s.logprobs[0] for s in none]


def test_routing_covers_every_id_but_the_last(samples):
    for sample in samples:
        assert sample.experts_TLK.shape == (len(sample.ids) - 1, 3, 3)
        assert int(sample.experts_TLK.min()) >= 0


def route(model, answers):
    """The experts of the layers whose routers choose."""
    return [experts.flatten(0, 1) for experts in answers.experts[model.config.num_hash_layers :]]


def test_replay_reproduces_the_routing_of_the_rollout_and_nothing_else_does(samples):
    """The router, changed since, would choose others."""
    changed = tiny(seed=5)
    answers = collate(samples)
    hashed = changed.config.num_hash_layers
    with torch.no_grad():
        own = changed(answers.ids_BT).routing
        with given_routing(changed, route(changed, answers)):
            replayed = changed(answers.ids_BT).routing
    for row, sample in enumerate(samples):
        length = len(sample.ids) - 1
        for layer in range(hashed, 3):
            said = replayed[layer].experts_NK.view(len(samples), -1, 3)[row, :length]
            assert torch.equal(said, sample.experts_TLK[:, layer])
    assert any(
        not torch.equal(a.experts_NK, b.experts_NK)
        for a, b in zip(own[hashed:], replayed[hashed:], strict=True)
    )


def test_training_finds_the_log_probabilities_of_the_engine(model, samples):
    """Up to the rounding of the serving cache and of products (see Numerics FAST)."""
    answers = collate(samples)
    with torch.no_grad(), given_routing(model, route(model, answers)):
        x_MD = hidden_states(model, answers)
        logp = torch.log_softmax(x_MD @ model.head.weight.T, -1)
    found = logp.gather(1, answers.drawn_M[:, None])[:, 0]
    drawn = torch.tensor([p for s in samples for p in s.logprobs])
    assert float((found - drawn).abs().mean()) < 0.02
    assert float((found - drawn).abs().max()) < 0.1


def test_weights_are_handed_over_as_they_are_now(model):
    actor = Actor(model, frozenset({STOP}), {})
    before = actor.sample(ASKS)
    saved = model.head.weight.detach().clone()
    with torch.no_grad():
        model.head.weight.mul_(-1)
        changed = actor.sample(ASKS)
        model.head.weight.copy_(saved)
    assert [s.answer for s in changed] != [s.answer for s in before]
    assert [s.logprobs for s in actor.sample(ASKS)] == [s.logprobs for s in before]


def test_rounded_formats_are_those_the_training_pass_sees(model):
    """Rounding what is rounded changes nothing, so both hand-overs draw the same."""
    formats = released_formats(model.config)
    from_masters = Actor(model, frozenset({STOP}), formats).sample(ASKS)
    with rounded_weights(model, formats):
        from_rounded = Actor(model, frozenset({STOP}), formats).sample(ASKS)
    assert [s.logprobs for s in from_rounded] == [s.logprobs for s in from_masters]
    plain = Actor(model, frozenset({STOP}), {}).sample(ASKS)
    assert [s.logprobs for s in plain] != [s.logprobs for s in from_masters]
