"""Answers have the shape of recorded ones of the hosted API, field by field."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from tests.serving import Build, chunks, client

HOSTED = Path(__file__).parents[2] / "data" / "hosted"
CHAT = {"model": "scripted", "messages": [{"role": "user", "content": "hi"}]}
THINK = {"thinking": {"type": "enabled"}}


def recorded(name: str) -> list[dict[str, Any]]:
    lines = (HOSTED / name).read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines if line]


def shape(value: Any) -> Any:
    """Keys in their order and kinds of values."""
    if isinstance(value, dict):
        return [(key, shape(part)) for key, part in value.items()]
    if isinstance(value, list):
        return [shape(part) for part in value]
    return type(value).__name__


def steps(sent: list[dict[str, Any]]) -> list[Any]:
    """Shapes of a stream's chunks; how many pieces a text is cut into does not count."""
    return [kind for kind, _ in groupby(map(shape, sent))]


def deltas(sent: list[dict[str, Any]], key: str) -> str:
    return "".join(chunk["choices"][0]["delta"].get(key) or "" for chunk in sent)


def called(sent: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for chunk in sent:
        yield from chunk["choices"][0]["delta"].get("tool_calls", ())


def test_stream_of_a_tool_call(scripted: Build) -> None:
    expected = recorded("deepseek-tool-call.chunks.txt")
    name = next(called(expected))["function"]["name"]
    arguments = "".join(call["function"]["arguments"] for call in called(expected))
    ((key, value),) = json.loads(arguments).items()
    script = (
        deltas(expected, "reasoning_content")
        + "</think>"
        + deltas(expected, "content")
        + f'\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name="{name}">\n'
        f'<｜DSML｜parameter name="{key}" string="true">{value}</｜DSML｜parameter>\n'
        "</｜DSML｜invoke>\n</｜DSML｜tool_calls>"
    )
    parameters = {"type": "object", "properties": {key: {"type": "string"}}}
    tool = {"type": "function", "function": {"name": name, "parameters": parameters}}
    asking = CHAT | THINK | {"stream": True, "tools": [tool], "max_tokens": 1000}
    with client(scripted(script)) as http:
        sent = chunks(http.post("/chat/completions", json=asking).text)
    assert steps(sent) == steps(expected)
    for key in ("reasoning_content", "content"):
        assert deltas(sent, key) == deltas(expected, key)
    assert "".join(call["function"]["arguments"] for call in called(sent)) == arguments
    ids = [next(called(stream))["id"] for stream in (sent, expected)]
    assert ids[0][:8] == ids[1][:8] == "call_00_"
    assert sent[0]["choices"][0]["delta"] == expected[0]["choices"][0]["delta"]
    assert sent[-1]["choices"] == expected[-1]["choices"]


def test_stream_that_ends_while_thinking(scripted: Build) -> None:
    expected = recorded("issue-19381-thinking-reasoning.chunks.txt")
    asking = CHAT | THINK | {"stream": True, "max_tokens": 7}
    with client(scripted(deltas(expected, "reasoning_content") + " more")) as http:
        sent = chunks(http.post("/chat/completions", json=asking).text)
    assert steps(sent) == steps(expected)
    assert deltas(sent, "reasoning_content") == deltas(expected, "reasoning_content")
    assert sent[-1]["choices"] == expected[-1]["choices"]


def test_whole_answer(scripted: Build) -> None:
    expected = json.loads((HOSTED / "deepseek-v4-sampling-live.json").read_text(encoding="utf-8"))
    thought = expected["choices"][0]["message"]["reasoning_content"]
    asking = CHAT | THINK | {"max_tokens": len(thought)}
    with client(scripted(thought + " and so on")) as http:
        sent = http.post("/chat/completions", json=asking).json()
    assert dict(shape(sent)) == dict(shape(expected))
    assert sent["choices"] == expected["choices"]


@pytest.mark.parametrize("stream", [False, True])
def test_logprobs_of_the_likeliest_tokens(scripted: Build, stream: bool) -> None:
    """At temperature 0 the recorded ones are 0 for the token and -9999 for all others."""
    expected = json.loads(
        (HOSTED / "short_reasoning_plain.official.json").read_text(encoding="utf-8")
    )
    (step,) = expected["steps"]
    asked = {key: expected["request"][key] for key in ("temperature", "logprobs", "top_logprobs")}
    with client(scripted(expected["message"]["content"])) as http:
        response = http.post("/chat/completions", json=CHAT | asked | {"stream": stream})
    if stream:
        reports = [c["choices"][0]["logprobs"] for c in chunks(response.text)]
        content = [entry for report in reports if report for entry in report["content"]]
    else:
        content = response.json()["choices"][0]["logprobs"]["content"]
    assert "".join(entry["token"] for entry in content) == expected["message"]["content"]
    assert [byte for entry in content for byte in entry["bytes"]] == step["token"]["bytes"]
    numbers = [top["logprob"] for top in step["top_logprobs"]]
    assert numbers == [0.0] + [-9999.0] * 19
    for entry in content:
        assert entry["logprob"] == step["logprob"]
        assert [top["logprob"] for top in entry["top_logprobs"]] == numbers
        assert {key: entry[key] for key in ("token", "bytes")} == {
            key: entry["top_logprobs"][0][key] for key in ("token", "bytes")
        }
