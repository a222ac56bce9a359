"""Generation over a small random model: ids in, ids and one finish out."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from dsv4.config import preset
from dsv4.engine.generate import Finish, Limits, Token, generate
from dsv4.engine.sampler import GREEDY, Sampling
from dsv4.errors import UsageError
from dsv4.model.transformer import Transformer
from dsv4.model.weights import init_weights

PROMPT = [3, 14, 15, 92, 65, 35, 89, 79]


@pytest.fixture(scope="module")
def model() -> Transformer:
    config = dataclasses.replace(preset("tiny"), max_position_embeddings=64)
    model = Transformer(config)
    init_weights(model, 0)
    return model.requires_grad_(False)


def run(model: Transformer, limits: Limits, **options: object) -> tuple[list[int], Finish]:
    *tokens, last = generate(model, PROMPT, limits, **options)  # type: ignore[arg-type]
    assert isinstance(last, Finish)
    assert all(isinstance(token, Token) for token in tokens)
    return [token.id for token in tokens if isinstance(token, Token)], last


def test_greedy_follows_the_arg_max_of_full_forward_passes(model: Transformer) -> None:
    tokens, finish = run(model, Limits(12), sampling=GREEDY)
    ids = list(PROMPT)
    for token in tokens:
        logits = model(torch.tensor([ids])).logits_BTV[0, -1]
        assert token == int(logits.argmax())
        ids.append(token)
    assert (len(tokens), finish.reason) == (12, "length")


@pytest.mark.parametrize("chunk", [1, 3, 8, 512])
def test_prefill_chunks_do_not_change_the_answer(model: Transformer, chunk: int) -> None:
    seen: list[int] = []
    tokens, _ = run(model, Limits(6), sampling=GREEDY, chunk=chunk, progress=seen.append)
    assert tokens == run(model, Limits(6), sampling=GREEDY)[0]
    assert seen == [*range(chunk, 8, chunk), 8]


def test_stop_id_ends_and_is_not_emitted(model: Transformer) -> None:
    tokens, _ = run(model, Limits(12), sampling=GREEDY)
    stop = tokens[4]
    shorter, finish = run(model, Limits(12, frozenset({stop})), sampling=GREEDY)
    assert shorter == tokens[: tokens.index(stop)]
    assert finish.reason == "stop"


def test_same_seed_same_answer(model: Transformer) -> None:
    first, _ = run(model, Limits(10), sampling=Sampling(seed=5))
    assert first == run(model, Limits(10), sampling=Sampling(seed=5))[0]
    assert first != run(model, Limits(10), sampling=Sampling(seed=6))[0]


def test_continuing_a_state_equals_one_long_prompt(model: Transformer) -> None:
    state = model.new_state()
    with torch.no_grad():
        model(torch.tensor([PROMPT[:5]]), state)
    rest = [
        token.id
        for token in generate(model, PROMPT[5:], Limits(5), GREEDY, state=state)
        if isinstance(token, Token)
    ]
    assert rest == run(model, Limits(5), sampling=GREEDY)[0]


def test_the_context_ends_the_answer(model: Transformer) -> None:
    tokens, finish = run(model, Limits(1000), sampling=GREEDY)
    assert len(PROMPT) + len(tokens) == 64
    assert finish.reason == "length"


def test_cancelling_stops_within_a_step(model: Transformer) -> None:
    tokens: list[int] = []
    finish = None
    stream = generate(model, PROMPT, Limits(50), GREEDY, cancelled=lambda: len(tokens) >= 3)
    for item in stream:
        if isinstance(item, Token):
            tokens.append(item.id)
        else:
            finish = item.reason
    assert (len(tokens), finish) == (3, "cancelled")


def test_cancelling_during_prefill_emits_nothing(model: Transformer) -> None:
    seen: list[int] = []
    items = list(
        generate(
            model,
            PROMPT,
            Limits(5),
            chunk=2,
            progress=seen.append,
            cancelled=lambda: len(seen) >= 2,
        )
    )
    assert items == [Finish("cancelled")]
    assert seen == [2, 4]


@pytest.mark.parametrize("ids", [[], list(range(64))])
def test_prompts_that_can_not_be_continued(model: Transformer, ids: list[int]) -> None:
    with pytest.raises(UsageError):
        generate(model, ids, Limits(1))
