"""Generation over a small random model: ids in, ids and one finish out."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from dsv4.engine.generate import generate
from dsv4.engine.request import Finish, Generation, Prefill, Token
from dsv4.engine.sampler import GREEDY, Sampling
from dsv4.errors import UsageError
from dsv4.model.transformer import Transformer
from dsv4.model.weights import init_weights
from dsv4.presets import preset

PROMPT = [3, 14, 15, 92, 65, 35, 89, 79]


@pytest.fixture(scope="module")
def model() -> Transformer:
    config = dataclasses.replace(preset("tiny"), max_position_embeddings=64)
    model = Transformer(config)
    init_weights(model, 0)
    return model.requires_grad_(False)


def run(
    model: Transformer, count: int, sampling: Sampling = GREEDY, stop: frozenset[int] = frozenset()
) -> tuple[list[int], Finish]:
    generation = Generation(tuple(PROMPT), count, stop, sampling)
    events = list(generate(model, generation))
    last = events[-1]
    assert isinstance(last, Finish)
    return [event.id for event in events if isinstance(event, Token)], last


def test_greedy_follows_the_arg_max_of_full_forward_passes(model: Transformer) -> None:
    tokens, finish = run(model, 12)
    ids = list(PROMPT)
    for token in tokens:
        logits = model(torch.tensor([ids])).logits_BTV[0, -1]
        assert token == int(logits.argmax())
        ids.append(token)
    assert (len(tokens), finish.reason) == (12, "length")


def test_stop_id_ends_and_is_not_emitted(model: Transformer) -> None:
    tokens, _ = run(model, 12)
    stop = tokens[4]
    shorter, finish = run(model, 12, stop=frozenset({stop}))
    assert shorter == tokens[: tokens.index(stop)]
    assert finish.reason == "stop"


def test_same_seed_same_answer(model: Transformer) -> None:
    first, _ = run(model, 10, Sampling(seed=5))
    assert first == run(model, 10, Sampling(seed=5))[0]
    assert first != run(model, 10, Sampling(seed=6))[0]


def test_the_context_ends_the_answer(model: Transformer) -> None:
    tokens, finish = run(model, 1000)
    assert len(PROMPT) + len(tokens) == 64
    assert finish.reason == "length"


def test_cancelling_stops_within_a_step(model: Transformer) -> None:
    tokens: list[Token] = []
    generation = Generation(tuple(PROMPT), 50, sampling=GREEDY)
    for event in generate(model, generation, cancelled=lambda: len(tokens) >= 3):
        if isinstance(event, Token):
            tokens.append(event)
    assert (len(tokens), event) == (3, Finish("cancelled"))


def test_a_long_prompt_is_read_in_pieces_and_tells(model: Transformer) -> None:
    config = dataclasses.replace(preset("tiny"), max_position_embeddings=2048)
    model = Transformer(config)
    init_weights(model, 0)
    generation = Generation(tuple(i % 60 for i in range(1100)), 1, sampling=GREEDY)
    events = list(generate(model.requires_grad_(False), generation))
    assert [event.done for event in events if isinstance(event, Prefill)] == [512, 1024, 1100]


@pytest.mark.parametrize("ids", [[], list(range(64)), [512], [-1]])
def test_prompts_that_can_not_be_continued(model: Transformer, ids: list[int]) -> None:
    with pytest.raises(UsageError):
        generate(model, Generation(tuple(ids), 1))
