"""What servers answer, in the forms that their documentation shows."""

from __future__ import annotations

import math
from typing import Any

import pytest
from tests.conftest import byte_vocabulary

from dsv4.encoding.tokenizer import Tokenizer
from dsv4.evaluation.conformance.against.answers import (
    Vocabulary,
    completion_rows,
    native_rows,
)

TOKENIZER = Tokenizer(byte_vocabulary())
VOCABULARY = Vocabulary(TOKENIZER, TOKENIZER.vocab_size)


def of(text: str) -> int:
    (found,) = TOKENIZER.encode(text)
    return found


def test_openai_completions() -> None:
    logprobs = {
        "text_offset": [0, 1, 2],
        "tokens": ["a", "b", "c"],
        "token_logprobs": [None, -1.5, -0.25],
        "top_logprobs": [None, {"x": -0.5, "y": -1.0}, {"c": -0.25, "\ufffd": -2.0}],
    }
    rows = completion_rows({"choices": [{"text": "abc", "logprobs": logprobs}]}, VOCABULARY)
    # The token itself counts beside the alternatives; nobody knows which id a broken one is.
    assert rows == [
        None,
        {of("x"): -0.5, of("y"): -1.0, of("b"): -1.5},
        {of("c"): -0.25},
    ]


def test_vllm_tells_ids() -> None:
    logprobs = {
        "tokens": ["token_id:7", "token_id:9"],
        "token_logprobs": [None, -1.0],
        "top_logprobs": [None, {"token_id:8": -0.5, "token_id:99999": -3.0}],
    }
    rows = completion_rows({"choices": [{"logprobs": logprobs}]}, Vocabulary(None, 274))
    assert rows == [None, {8: -0.5, 9: -1.0}]


LLAMA: list[dict[str, Any]] = [
    {
        "id": 80,
        "token": " a",
        "bytes": [32, 97],
        "logprob": -0.125,
        "top_logprobs": [
            {"id": 80, "token": " a", "bytes": [32, 97], "logprob": -0.125},
            {"id": 81, "token": "", "bytes": [226], "logprob": -2.5},
        ],
    }
]
"""As tools/server/README.md of llama.cpp describes `completion_probabilities`."""


def test_llama_cpp_completions() -> None:
    body = {
        "choices": [{"text": " a", "index": 0, "logprobs": {"content": LLAMA}}],
        "object": "text_completion",
        "usage": {"completion_tokens": 1, "prompt_tokens": 5, "total_tokens": 6},
    }
    assert completion_rows(body, VOCABULARY) == [{80: -0.125, 81: -2.5}]


def test_llama_cpp_of_its_own() -> None:
    body = {
        "content": " a",
        "tokens": [80],
        "stop": True,
        "tokens_evaluated": 5,
        "completion_probabilities": LLAMA,
    }
    assert native_rows(body, VOCABULARY) == [{80: -0.125, 81: -2.5}]


def test_llama_cpp_after_sampling() -> None:
    token = {"id": 80, "token": " a", "bytes": [32, 97], "prob": 0.5}
    listed = [{**token, "top_probs": [token, {"id": 81, "token": "", "bytes": [226], "prob": 0.0}]}]
    (row,) = native_rows({"completion_probabilities": listed}, VOCABULARY)
    assert row is not None and row[80] == pytest.approx(math.log(0.5)) and row[81] < -600


def test_bytes_tell_more_than_text() -> None:
    entry = {"token": "\ufffd", "bytes": [226], "logprob": -1.0}
    rows = native_rows({"completion_probabilities": [entry]}, VOCABULARY)
    assert rows == [{VOCABULARY._by_bytes[b"\xe2"]: -1.0}]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"choices": []},
        {"choices": [{"logprobs": None}]},
        {"choices": [{"logprobs": {"tokens": None}}]},
        {"choices": ["x"]},
        {"completion_probabilities": 3},
    ],
)
def test_nothing_is_said(body: dict[str, Any]) -> None:
    assert completion_rows(body, VOCABULARY) == [] and native_rows(body, VOCABULARY) == []


def test_nonsense_counts_for_nothing() -> None:
    listed = [7, {"id": 3, "logprob": "x"}, {"id": 4, "logprob": math.nan}, {"id": -1}]
    assert native_rows({"completion_probabilities": listed}, VOCABULARY) == [None] * 4
