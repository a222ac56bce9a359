"""Text completions in process."""

from __future__ import annotations

from typing import Any

import pytest
from tests.serving import Build, chunks, client


def body(**fields: Any) -> dict[str, Any]:
    return {"model": "scripted", "prompt": "Once", "max_tokens": 50, **fields}


@pytest.mark.parametrize("path", ["/v1/completions", "/completions", "/beta/completions"])
def test_answer(scripted: Build, path: str) -> None:
    with client(scripted(" upon<think>a")) as http:
        answer = http.post(path, json=body()).json()
    assert answer["object"] == "text_completion" and answer["id"].startswith("cmpl-")
    assert answer["choices"] == [
        {"text": " upon<think>a", "index": 0, "logprobs": None, "finish_reason": "stop"}
    ]
    assert answer["usage"]["prompt_tokens"] == 5


def test_stream(scripted: Build) -> None:
    with client(scripted("Grüße")) as http:
        whole = http.post("/completions", json=body()).json()
        sent = chunks(http.post("/completions", json=body(stream=True)).text)
        counting = body(stream=True, stream_options={"include_usage": True})
        counted = chunks(http.post("/completions", json=counting).text)
    assert len({(c["id"], c["object"], c["created"], c["model"]) for c in sent}) == 1
    assert "".join(c["choices"][0]["text"] for c in sent) == "Grüße"
    assert [c["choices"][0]["finish_reason"] for c in sent[-2:]] == [None, "stop"]
    assert sent[-1]["usage"] == whole["usage"]
    assert counted[-1]["choices"] == [] and counted[-1]["usage"] == whole["usage"]
    assert counted[-2]["usage"] is None


def test_what_belongs_in_between(scripted: Build) -> None:
    engine = scripted("x")
    seen: list[Any] = []
    prepare = engine.prepare_completion
    engine.prepare_completion = lambda asked: (seen.append(prepare(asked)), seen[-1])[1]  # type: ignore[method-assign]
    with client(engine) as http:
        answer = http.post("/beta/completions", json=body(suffix=" end")).json()
    assert answer["choices"][0]["text"] == "x"
    prompt = engine.model.tokenizer.decode(seen[0].ids)
    assert prompt.endswith("<｜fim▁begin｜>Once<｜fim▁hole｜> end<｜fim▁end｜>")


@pytest.mark.parametrize("stream", [False, True])
def test_echo(scripted: Build, stream: bool) -> None:
    with client(scripted(" upon")) as http:
        response = http.post("/completions", json=body(echo=True, stream=stream))
    answers = chunks(response.text) if stream else [response.json()]
    assert "".join(answer["choices"][0]["text"] for answer in answers) == "Once upon"


@pytest.mark.parametrize("stream", [False, True])
def test_logprobs(scripted: Build, stream: bool) -> None:
    with client(scripted("abc")) as http:
        response = http.post("/completions", json=body(logprobs=2, temperature=0, stream=stream))
    answers = chunks(response.text) if stream else [response.json()]
    reports = [a["choices"][0]["logprobs"] for a in answers if a["choices"][0]["logprobs"]]
    joined = {key: [part for report in reports for part in report[key]] for key in reports[0]}
    assert joined["tokens"] == ["a", "b", "c"]
    assert joined["token_logprobs"] == [0, 0, 0]
    assert joined["text_offset"] == [0, 1, 2]
    for token, top in zip("abc", joined["top_logprobs"], strict=True):
        assert sorted(top.values()) == [-9999, 0] and top[token] == 0


@pytest.mark.parametrize(
    ("fields", "status", "param"),
    [
        ({"prompt": None}, 422, None),
        ({"prompt": [1, 2]}, 422, None),
        ({"prompt": ["a", "b"]}, 422, None),
        ({"n": 2}, 400, "n"),
        ({"best_of": 2}, 400, "best_of"),
        ({"echo": True, "suffix": "x"}, 400, "echo"),
        ({"logprobs": 21}, 422, "logprobs"),
        ({"prompt": "x" * 5000}, 400, "prompt"),
    ],
)
def test_refusals(scripted: Build, fields: dict[str, Any], status: int, param: str | None) -> None:
    with client(scripted("x")) as http:
        response = http.post("/v1/completions", json=body(**fields))
    assert response.status_code == status
    assert param in (None, response.json()["error"]["param"])


def test_one_prompt_in_a_list(scripted: Build) -> None:
    with client(scripted("x")) as http:
        answer = http.post("/v1/completions", json=body(prompt=["a"])).json()
    assert answer["choices"][0]["text"] == "x"
