"""Feeding known ids: pieces, single steps, and what is refused."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from dsv4.engine.forward import forward
from dsv4.errors import CheckpointError, UsageError
from dsv4.model.transformer import Transformer
from dsv4.model.weights import init_weights
from dsv4.presets import preset

IDS = [3, 14, 15, 92, 65, 35, 89, 79]


@pytest.fixture(scope="module")
def model() -> Transformer:
    config = dataclasses.replace(preset("tiny"), max_position_embeddings=64)
    model = Transformer(config)
    init_weights(model, 0)
    return model.requires_grad_(False)


@pytest.mark.parametrize(("chunk", "decode"), [(512, 0), (3, 0), (3, 2), (8, 8), (1, 0)])
def test_pieces_are_the_whole(model: Transformer, chunk: int, decode: int) -> None:
    pieces = list(forward(model, IDS, chunk=chunk, decode=decode))
    expected = model(torch.tensor([IDS])).logits_BTV[0]
    assert torch.allclose(torch.cat([logits for _, logits in pieces]), expected, atol=1e-4)
    counts = [len(logits) for _, logits in pieces]
    assert [done for done, _ in pieces] == [sum(counts[: i + 1]) for i in range(len(counts))]
    assert counts[len(counts) - decode :] == [1] * decode
    assert max(counts) <= chunk


def test_ids_follow_a_state(model: Transformer) -> None:
    state = model.new_state()
    list(forward(model, IDS[:5], state))
    ((done, logits),) = forward(model, IDS[5:], state, last_only=True)
    assert (done, logits.shape[0], state.length) == (3, 1, 8)
    expected = model(torch.tensor([IDS])).logits_BTV[0, -1]
    assert torch.allclose(logits[0], expected, atol=1e-4)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([], "no token ids"),
        ([2**70], "outside the vocabulary"),
        ([1, -1], "token id -1 is outside"),
        (["a"], "'a' is no token id"),
        ([0.5], "0.5 is no token id"),
        ([1] * 65, "65 tokens exceed the context of 64"),
    ],
)
def test_ids_that_are_refused_before_anything_is_computed(
    model: Transformer, ids: list[Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        forward(model, ids)


def test_logits_that_are_not_finite() -> None:
    model = Transformer(preset("tiny"))
    init_weights(model, 0)
    model.requires_grad_(False).norm.weight.fill_(float("nan"))
    with pytest.raises(CheckpointError, match="not finite"):
        list(forward(model, IDS))
