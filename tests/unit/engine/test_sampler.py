"""Sampling as functions of one vector of logits."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dsv4.engine.sampler import GREEDY, Sampler, Sampling, probabilities
from dsv4.errors import CheckpointError, UsageError

LOGITS = torch.tensor([2.0, 1.0, 0.0, -1.0, 1.0])


def test_plain_softmax() -> None:
    assert torch.allclose(probabilities(LOGITS, Sampling()), LOGITS.softmax(-1))


def test_temperature_divides_the_logits() -> None:
    assert torch.allclose(
        probabilities(LOGITS, Sampling(temperature=0.5)), (2 * LOGITS).softmax(-1)
    )


def test_greedy_is_one_hot_and_takes_the_first_of_equals() -> None:
    probs = probabilities(torch.tensor([0.0, 3.0, 3.0]), GREEDY)
    assert probs.tolist() == [0.0, 1.0, 0.0]


@pytest.mark.parametrize(
    ("sampling", "kept"),
    [
        (Sampling(top_k=1), [0]),
        (Sampling(top_k=99), [0, 1, 2, 3, 4]),
        (Sampling(top_p=0.5), [0]),
        (Sampling(top_p=0.6), [0, 1]),
        (Sampling(min_p=0.3), [0, 1, 4]),
        (Sampling(min_p=1.0), [0]),
    ],
)
def test_truncation_keeps(sampling: Sampling, kept: list[int]) -> None:
    probs = probabilities(LOGITS, sampling)
    assert probs.nonzero()[:, 0].tolist() == kept
    expected = LOGITS.softmax(-1)[kept]
    assert torch.allclose(probs[kept], expected / expected.sum())


@given(
    # Steps of 1/4: two different logits stay different probabilities in float32.
    logits=st.lists(st.integers(-120, 120).map(lambda n: n / 4), min_size=1, max_size=40),
    temperature=st.floats(0, 2),
    top_p=st.floats(0.01, 1),
    top_k=st.integers(0, 50),
    min_p=st.floats(0, 1),
)
def test_always_a_distribution_that_keeps_the_best(
    logits: list[float], temperature: float, top_p: float, top_k: int, min_p: float
) -> None:
    vector = torch.tensor(logits)
    probs = probabilities(vector, Sampling(temperature, top_p, top_k, min_p))
    assert math.isclose(float(probs.sum()), 1.0, abs_tol=1e-5)
    assert bool((probs >= 0).all())
    best = probs[vector == vector.max()]
    assert float(best.max()) == float(probs.max()) > 0


def test_a_seed_repeats_a_draw_and_another_does_not() -> None:
    def draw(seed: int) -> list[int]:
        sampler = Sampler(Sampling(seed=seed))
        return [sampler.draw(torch.zeros(1000)).token for _ in range(8)]

    assert draw(7) == draw(7)
    assert draw(7) != draw(8)


def test_frequencies_follow_the_probabilities() -> None:
    sampler = Sampler(Sampling(seed=1))
    draws = torch.tensor([sampler.draw(LOGITS).token for _ in range(4000)])
    seen = torch.bincount(draws, minlength=5) / 4000
    # Five standard deviations of a proportion, at most 5 * sqrt(0.25 / 4000) = 0.04.
    assert float((seen - LOGITS.softmax(-1)).abs().max()) < 0.04


def test_logprob_is_that_of_the_drawn_token() -> None:
    draw = Sampler(GREEDY).draw(LOGITS)
    assert (draw.token, draw.logprob) == (0, 0.0)
    assert draw.best(3) == [(0, 0.0), (1, -math.inf), (4, -math.inf)]
    draw = Sampler(Sampling(seed=3)).draw(LOGITS)
    assert math.isclose(draw.logprob, float(LOGITS.log_softmax(-1)[draw.token]), abs_tol=1e-6)
    assert [token for token, _ in draw.best(2)] == [0, 1]


def test_a_draw_depends_on_its_place_alone() -> None:
    first, second = Sampler(Sampling(seed=9)), Sampler(Sampling(seed=9))
    flat = torch.zeros(1000)
    ahead = [second.guess(flat, 0), second.guess(flat, 1)]
    assert [first.draw(flat).token, first.draw(flat).token] == ahead
    assert second.draw(flat).token == ahead[0]


def test_what_is_not_allowed_never_comes() -> None:
    allowed = torch.tensor([False, True, False, False, True])
    sampler = Sampler(Sampling(seed=2, temperature=2.0))
    assert {sampler.draw(LOGITS, allowed).token for _ in range(200)} == {1, 4}
    assert Sampler(GREEDY).draw(LOGITS, allowed).token == 1


def test_penalties_and_bias_move_the_choice() -> None:
    sampler = Sampler(Sampling(temperature=0, presence_penalty=1.5))
    assert [sampler.draw(LOGITS).token for _ in range(3)] == [0, 1, 4]
    sampler = Sampler(Sampling(temperature=0, frequency_penalty=0.6))
    assert [sampler.draw(LOGITS).token for _ in range(4)] == [0, 0, 1, 4]
    assert Sampler(Sampling(temperature=0, bias=((3, 100.0),))).draw(LOGITS).token == 3


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_broken_logits_are_an_error(bad: float) -> None:
    with pytest.raises(CheckpointError, match="not finite"):
        Sampler(Sampling()).draw(torch.tensor([0.0, bad]))


@pytest.mark.parametrize(
    "values",
    [
        {"temperature": -0.1},
        {"temperature": 2.1},
        {"temperature": math.nan},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"top_k": -1},
        {"min_p": 1.5},
        {"seed": 1 << 64},
        {"presence_penalty": 2.5},
        {"frequency_penalty": math.nan},
    ],
)
def test_values_out_of_range(values: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=next(iter(values))):
        Sampling(**values)  # type: ignore[arg-type]
