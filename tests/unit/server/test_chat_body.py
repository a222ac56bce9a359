"""Bodies of chat requests: what they ask of the engine, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
from tests.serving import Build, client

from dsv4.chat.defaults import Defaults
from dsv4.chat.request import Named, Pattern, Request, Schema
from dsv4.engine.sampler import Sampling
from dsv4.server.chat_body import ChatBody

WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}


def body(**fields: Any) -> dict[str, Any]:
    return {"model": "scripted", "messages": [{"role": "user", "content": "hi"}], **fields}


def asked(**fields: Any) -> Request:
    return ChatBody.model_validate(body(**fields)).request(Defaults())


def test_options_reach_the_engine() -> None:
    made = asked(
        tools=[WEATHER],
        tool_choice={"type": "function", "function": {"name": "weather"}},
        parallel_tool_calls=False,
        logprobs=True,
        top_logprobs=3,
        logit_bias={"5": -100, "7": 1.5},
        presence_penalty=1,
        frequency_penalty=-1.5,
        min_p=0.1,
        top_k=4,
        seed=7,
        thinking={"type": "enabled", "budget_tokens": 50},
        reasoning_effort="max",
        user_id="me",
        max_tokens=1_000_000,
    )
    assert (made.tool_choice, made.parallel) == (Named("weather"), False)
    assert (made.logprobs, made.thinking_budget, made.effort) == (3, 50, "max")
    assert (made.user, made.max_tokens) == ("me", 1_000_000)
    assert made.sampling == Sampling(
        presence_penalty=1,
        frequency_penalty=-1.5,
        bias=((5, -100), (7, 1.5)),
        min_p=0.1,
        top_k=4,
        seed=7,
    )
    assert asked(tools=[WEATHER], tool_choice="required").tool_choice == "required"
    assert asked(logprobs=True).logprobs == 0
    assert asked().logprobs is None and asked().format is None


@pytest.mark.parametrize(
    ("sent", "meant"),
    [
        ({"type": "text"}, None),
        ({"type": "json_object"}, Schema()),
        (
            {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}},
            Schema({"type": "object"}),
        ),
        ({"type": "regex", "regex": "a+"}, Pattern("a+")),
    ],
)
def test_formats(sent: dict[str, Any], meant: Any) -> None:
    assert asked(response_format=sent).format == meant


@pytest.mark.parametrize(
    ("fields", "status", "param"),
    [
        ({"messages": []}, 422, "messages"),
        ({"messages": "hi"}, 422, "messages"),
        ({"messages": [{"role": "nobody", "content": "x"}]}, 400, None),
        ({"messages": [{"role": "user"}]}, 400, None),
        ({"messages": [{"role": "user", "content": "x" * 5000}]}, 400, "messages"),
        ({"model": "gpt-17"}, 400, "model"),
        ({"model": None}, 422, "model"),
        ({"temperature": 2.5}, 422, "temperature"),
        ({"temperature": "hot"}, 422, None),
        ({"top_p": 0}, 422, "top_p"),
        ({"max_tokens": 0}, 422, "max_tokens"),
        ({"seed": 2**70}, 422, "seed"),
        ({"max_tokens": True}, 422, "max_tokens"),
        ({"max_tokens": "5"}, 422, "max_tokens"),
        ({"top_k": True}, 422, "top_k"),
        ({"temperature": True}, 422, "temperature"),
        ({"stream": "yes"}, 422, "stream"),
        ({"stream": 1}, 422, "stream"),
        ({"stop": ["x"] * 17}, 422, "stop"),
        ({"stop": 5}, 422, "stop"),
        ({"messages": [{"role": "user", "content": "x", "task": "title"}]}, 400, "messages.0.task"),
        ({"messages": [{"role": "user", "content": "x", "wo_eos": 0}]}, 400, "messages.0.wo_eos"),
        (
            {"messages": [{"role": "system", "content": "x", "response_format": {}}]},
            400,
            "messages.0.response_format",
        ),
        ({"messages": [{"role": "system", "content": "x", "tools": []}]}, 400, "messages.0.tools"),
        ({"messages": [{"role": "assistant", "content": "x", "prefix": "yes"}]}, 400, None),
        ({"tools": [{"function": {"name": "not a name"}}]}, 422, None),
        ({"tools": [WEATHER] * 129}, 422, "tools"),
        ({"n": 2}, 400, "n"),
        ({"top_logprobs": 2}, 400, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, 422, "top_logprobs"),
        ({"response_format": {"type": "json_schema"}}, 400, "response_format"),
        ({"response_format": {"type": "regex"}}, 400, "response_format"),
        ({"response_format": {"type": "xml"}}, 422, "response_format.type"),
        ({"tool_choice": "required"}, 400, "tools"),
        ({"tool_choice": {"type": "function", "function": {"name": "f"}}}, 400, "tool_choice"),
        ({"tool_choice": 5}, 422, None),
        ({"logit_bias": {"a": 1}}, 422, None),
        ({"logit_bias": {"1": 101}}, 422, "logit_bias.1"),
        ({"logit_bias": {"999999": 1}}, 400, None),
        ({"presence_penalty": 3}, 422, "presence_penalty"),
        ({"user_id": "a b"}, 422, "user_id"),
        ({"reasoning_effort": "enormous"}, 422, "reasoning_effort"),
    ],
)
def test_refusals(scripted: Build, fields: dict[str, Any], status: int, param: str | None) -> None:
    with client(scripted("x")) as http:
        response = http.post("/v1/chat/completions", json=body(**fields))
    assert response.status_code == status
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert error["message"] and "\n" not in error["message"]
    if param is not None:
        assert error["param"] == param
