"""Advantages, ratio, clipping, distance and masking against the formulas in float64."""

import math

import pytest
import torch

from dsv4.errors import UsageError
from dsv4.training.answers import collate, micro_batches
from dsv4.training.grpo import Clip, advantages, chosen_logprobs, policy_terms
from dsv4.training.rollout import Sample


def sample(prompt, answer, layers=2, chosen=3):
    """A sample of these many ids whose experts are numbered by position."""
    length = prompt + answer - 1
    experts = torch.arange(length * layers * chosen).view(length, layers, chosen)
    ids = tuple(range(10, 10 + prompt + answer))
    return Sample(ids[:prompt], ids[prompt:], (-1.0,) * answer, True, experts)


ANSWERS = collate([sample(3, 4), sample(5, 1), sample(2, 6)])


def formula(logp, old, ref, advantage, clip):
    """Loss of every sample, ids one by one."""
    losses, at = [], 0
    for i, one in enumerate(ANSWERS.samples):
        ids = range(at, at + len(one.answer))
        at += len(one.answer)
        drift = sum(old[t] - logp[t].item() for t in ids) / len(ids)
        keep = 0.0 if advantage[i] < 0 and drift > clip.delta else 1.0
        terms = []
        for t in ids:
            r = math.e ** (logp[t] - old[t])
            bounded = min(max(r.item(), 1 - clip.low), 1 + clip.high) * advantage[i]
            free = r * advantage[i]
            gain = free if free.item() <= bounded else bounded
            gap = ref[t] - logp[t]
            terms.append(keep * gain - clip.beta * r * (math.e**gap - gap - 1))
        losses.append(-sum(terms) / len(terms))
    return losses


@pytest.mark.parametrize("shift", [0.0, 0.15, -0.6])
def test_loss_and_gradient_are_those_of_the_formula(shift):
    clip = Clip(low=0.2, high=0.28, beta=0.05, delta=0.3)
    count = ANSWERS.drawn
    old = -2 - torch.rand(count)
    logp = (old + shift + 0.3 * torch.randn(count)).requires_grad_(True)
    ref = old + 0.2 * torch.randn(count)
    advantage = torch.tensor([0.7, -0.4, -0.9])
    terms = policy_terms(logp, old, ref, advantage, ANSWERS, clip)
    terms.loss_B.sum().backward()
    exact = logp.detach().double().requires_grad_(True)
    wanted = formula(exact, old.double().tolist(), ref.double().tolist(), advantage.tolist(), clip)
    torch.stack([torch.as_tensor(w) for w in wanted]).sum().backward()
    values = [float(w.detach()) for w in wanted]
    # float32 sums of a dozen terms of size one
    assert terms.loss_B.tolist() == pytest.approx(values, rel=1e-4, abs=1e-5)
    torch.testing.assert_close(logp.grad.double(), exact.grad, rtol=1e-4, atol=1e-5)


def test_an_unchanged_policy_is_neither_clipped_nor_masked_and_costs_its_advantage():
    old = -torch.rand(ANSWERS.drawn)
    advantage = torch.tensor([1.0, -2.0, 0.5])
    terms = policy_terms(old.clone(), old, old.clone(), advantage, ANSWERS, Clip())
    assert terms.loss_B.tolist() == pytest.approx([-1.0, 2.0, -0.5])
    assert (terms.kl, terms.clipped, terms.log_ratio, terms.masked) == (0.0, 0.0, 0.0, 0)


def test_bad_answers_that_the_policy_left_far_behind_are_masked_good_ones_are_not():
    old = torch.zeros(ANSWERS.drawn)
    logp = torch.full((ANSWERS.drawn,), -2.0)
    bad = policy_terms(logp, old, None, torch.tensor([-1.0, -1.0, 1.0]), ANSWERS, Clip(delta=1.0))
    assert bad.masked == 2
    assert bad.loss_B.tolist() == pytest.approx([0.0, 0.0, -math.exp(-2.0)])


def test_the_distance_is_an_unbiased_estimate_with_an_unbiased_gradient():
    """Averaged over all ids that could be drawn, value and gradient are those of KL(pi || ref)."""
    logits = torch.randn(12, dtype=torch.float64, requires_grad=True)
    old = torch.log_softmax(torch.randn(12, dtype=torch.float64), -1)
    ref = torch.log_softmax(torch.randn(12, dtype=torch.float64), -1)
    logp = torch.log_softmax(logits, -1)
    one_id_each = collate([sample(2, 1) for _ in range(12)])
    none = torch.zeros(12, dtype=torch.float64)
    clip = Clip(beta=1.0)
    terms = policy_terms(logp, old, ref, none, one_id_each, clip)
    (terms.loss_B * old.exp()).sum().backward()
    estimate = logits.grad.clone()
    logits.grad = None
    exact = (logp.exp() * (logp - ref)).sum()
    torch.testing.assert_close((terms.loss_B * old.exp()).sum(), exact)
    again = torch.log_softmax(logits, -1)
    (again.exp() * (again - ref)).sum().backward()
    torch.testing.assert_close(estimate, logits.grad)


def test_advantages_are_centred_and_keep_their_scale():
    assert advantages([1.0, 0.0, 0.0, 1.0]) == [0.5, -0.5, -0.5, 0.5]
    assert advantages([0.3, 0.3]) == [0.0, 0.0]


def test_log_probabilities_and_entropy():
    logits = torch.randn(5, 9)
    drawn = torch.tensor([0, 8, 3, 3, 1])
    logp, entropy = chosen_logprobs(logits, drawn)
    p = torch.softmax(logits.double(), -1)
    assert logp.tolist() == pytest.approx(p.log()[range(5), drawn].tolist(), rel=1e-5)
    assert entropy == pytest.approx(float(-(p * p.log()).sum()), rel=1e-5)


@pytest.mark.parametrize("values", [{"low": 1.0}, {"high": 0.0}, {"beta": -1.0}, {"delta": 0.0}])
def test_constants_out_of_range_are_refused(values):
    with pytest.raises(UsageError):
        Clip(**values)


def test_a_batch_holds_every_drawn_id_where_it_is_predicted():
    batch = collate([sample(3, 2), sample(1, 5)])
    assert batch.ids_BT.tolist() == [[10, 11, 12, 13, 2], [10, 11, 12, 13, 14]]
    assert batch.row_M.tolist() == [0, 0, 1, 1, 1, 1, 1]
    assert batch.place_M.tolist() == [2, 3, 0, 1, 2, 3, 4]
    assert batch.drawn_M.tolist() == [13, 14, 11, 12, 13, 14, 15]
    first = batch.samples[0].experts_TLK
    assert len(batch.experts) == 2
    assert torch.equal(batch.experts[1][0, :4], first[:, 1])
    assert bool((batch.experts[1][0, 4] == -1).all())
    means = batch.mean_over_answers(torch.tensor([1.0, 3.0, 1, 2, 3, 4, 5]))
    assert means.tolist() == [2.0, 3.0]


def test_micro_batches_hold_every_sample_once_within_their_size():
    samples = [sample(2, n) for n in (3, 9, 1, 30, 4, 4, 8)]
    batches = micro_batches(samples, 24)
    assert sorted(id(s) for b in batches for s in b) == sorted(map(id, samples))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(len(s.ids) for s in batch) <= 24
