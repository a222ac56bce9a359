"""Anthropic's messages in process: what is asked of the engine, and what comes back."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from tests.serving import HELLO, PARAMETERS, Build, calls, client, named

from dsv4.chat.answer import Finish, Usage
from dsv4.chat.defaults import Defaults
from dsv4.chat.request import Named, Request, Schema
from dsv4.encoding.events import ContentDelta
from dsv4.server.messages_answer import MessagesAnswer
from dsv4.server.messages_body import MessagesBody

WEATHER = {"name": "weather", "description": "Of a city", "input_schema": PARAMETERS}
THINK = {"type": "enabled", "budget_tokens": 100}


def body(**fields: Any) -> dict[str, Any]:
    return {"model": "claude-sonnet-5", "max_tokens": 500, "messages": HELLO, **fields}


def asked(**fields: Any) -> Request:
    return MessagesBody.model_validate(body(**fields)).asked(Defaults())


@pytest.mark.parametrize("path", ["/v1/messages", "/anthropic/v1/messages", "/v1/messages?beta=1"])
def test_answer(scripted: Build, path: str) -> None:
    with client(scripted("Hello!")) as http:
        answer = http.post(path, json=body()).json()
    assert answer.pop("id").startswith("msg_")
    used = answer.pop("usage")
    assert answer == {
        "type": "message",
        "role": "assistant",
        "model": "claude-sonnet-5",
        "content": [{"type": "text", "text": "Hello!"}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
    }
    assert used["output_tokens"] == 6 and used["input_tokens"] > 0


def test_thinking_and_calls_are_blocks(scripted: Build) -> None:
    with client(scripted("hm</think>Well." + calls("Paris", "Rome"))) as http:
        answer = http.post("/v1/messages", json=body(thinking=THINK, tools=[WEATHER])).json()
    thought, text, first, second = answer["content"]
    assert (thought["type"], thought["thinking"]) == ("thinking", "hm") and thought["signature"]
    assert text == {"type": "text", "text": "Well."}
    assert first["id"] != second["id"]
    assert [(b["type"], b["name"], b["input"]) for b in (first, second)] == [
        ("tool_use", "weather", {"city": "Paris"}),
        ("tool_use", "weather", {"city": "Rome"}),
    ]
    assert answer["stop_reason"] == "tool_use"


def test_the_stream_tells_the_same(scripted: Build) -> None:
    engine = scripted("hm</think>Well." + calls("Paris", "Rome"))
    with client(engine) as http:
        fields: dict[str, Any] = {"thinking": THINK, "tools": [WEATHER]}
        whole = http.post("/v1/messages", json=body(**fields)).json()
        response = http.post("/v1/messages", json=body(**fields, stream=True))
    sent = [event for event in named(response.text) if event["type"] != "ping"]
    assert sent[0]["type"] == "message_start"
    assert sent[0]["message"]["content"] == [] and sent[0]["message"]["stop_reason"] is None
    assert sent[0]["message"]["usage"]["input_tokens"] == whole["usage"]["input_tokens"]
    assert sent[-1] == {"type": "message_stop"}
    assert sent[-2]["delta"] == {"stop_reason": "tool_use", "stop_sequence": None}
    assert sent[-2]["usage"] == whole["usage"]
    blocks: list[dict[str, Any]] = []
    partial = ""
    for event in sent[1:-2]:
        if event["type"] == "content_block_start":
            assert event["index"] == len(blocks)
            blocks.append(event["content_block"])
            partial = ""
        elif event["type"] == "content_block_stop":
            assert event["index"] == len(blocks) - 1
            if blocks[-1]["type"] == "tool_use":
                assert blocks[-1]["input"] == {}
                blocks[-1]["input"] = json.loads(partial)
        else:
            assert event["index"] == len(blocks) - 1
            kind, delta = event["delta"].pop("type"), event["delta"]
            if kind == "input_json_delta":
                partial += delta["partial_json"]
            else:
                ((key, text),) = delta.items()
                assert kind == f"{key}_delta"
                blocks[-1][key] += text
    for block in (*blocks, *whole["content"]):
        block.pop("id", None)
    assert blocks == whole["content"]


def test_stop_sequence_is_named(scripted: Build) -> None:
    with client(scripted("Hello")) as http:
        answer = http.post("/v1/messages", json=body(stop_sequences=["x", "lo"])).json()
    assert (answer["stop_reason"], answer["stop_sequence"]) == ("stop_sequence", "lo")
    assert answer["content"] == [{"type": "text", "text": "Hel"}]


def test_max_tokens_cuts_a_call_off(scripted: Build) -> None:
    asking = body(tools=[WEATHER], max_tokens=80)
    with client(scripted("Well." + calls("Paris" * 50))) as http:
        answer = http.post("/v1/messages", json=asking).json()
    assert answer["stop_reason"] == "max_tokens"
    assert answer["content"] == [{"type": "text", "text": "Well."}]


def test_input_tokens_leave_out_what_was_cached() -> None:
    writer = MessagesAnswer("m", 10)
    answer = writer.whole([ContentDelta("x"), Finish("stop", Usage(10, 1, 0, 8))])
    assert answer["usage"]["input_tokens"] == 2
    assert answer["usage"]["cache_read_input_tokens"] == 8


def test_conversations_become_messages() -> None:
    turns = [
        {"role": "user", "content": [{"type": "text", "text": "a"}]},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "hm", "signature": "whatever"},
                {"type": "text", "text": "b"},
                {"type": "tool_use", "id": "t1", "name": "weather", "input": {"city": "Rome"}},
                {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "t1", "content": "sunny", "is_error": False},
                {"type": "text", "text": "c", "cache_control": {"type": "ephemeral"}},
            ],
        },
        {"role": "system", "content": "later"},
    ]
    system = [{"type": "text", "text": "x"}, {"type": "text", "text": "y"}]
    assert asked(messages=turns, system=system).messages == [
        {"role": "system", "content": "x\n\ny"},
        {"role": "user", "content": "a"},
        {
            "role": "assistant",
            "content": "b",
            "reasoning_content": "hm",
            "tool_calls": [
                {
                    "id": "t1",
                    "type": "function",
                    "function": {"name": "weather", "arguments": {"city": "Rome"}},
                }
            ],
        },
        {"role": "tool", "tool_call_id": "t1", "content": "sunny"},
        {"role": "user", "content": "c"},
        {"role": "system", "content": "later"},
    ]


def test_a_last_assistant_turn_is_continued() -> None:
    turns = [*HELLO, {"role": "assistant", "content": "Once"}]
    assert asked(messages=turns).messages[-1] == {
        "role": "assistant",
        "content": "Once",
        "prefix": True,
    }


def test_options_reach_the_engine() -> None:
    config = {"effort": "max", "format": {"type": "json_schema", "schema": {"type": "object"}}}
    made = asked(
        thinking=THINK,
        output_config=config,
        tools=[WEATHER],
        tool_choice={"type": "tool", "name": "weather", "disable_parallel_tool_use": True},
        metadata={"user_id": "me"},
        top_k=5,
    )
    assert (made.effort, made.thinking_budget, made.user) == ("max", 100, "me")
    assert made.format == Schema({"type": "object"})
    assert (made.tool_choice, made.parallel, made.sampling.top_k) == (Named("weather"), False, 5)
    assert made.tools[0]["function"]["parameters"] == PARAMETERS
    assert asked().effort == "none"
    assert asked(thinking={"type": "adaptive"}).effort == "high"
    assert asked(tools=[WEATHER], tool_choice={"type": "any"}).tool_choice == "required"


@pytest.mark.parametrize(
    "path", ["/v1/messages/count_tokens", "/anthropic/v1/messages/count_tokens"]
)
def test_count_tokens(scripted: Build, path: str) -> None:
    with client(scripted("x")) as http:
        asking = body(tools=[WEATHER], system="be brief")
        used = http.post("/v1/messages", json=asking).json()["usage"]
        del asking["max_tokens"]
        counted = http.post(path, json=asking, params={"beta": "true"}).json()
    assert counted == {"input_tokens": used["input_tokens"]}


@pytest.mark.parametrize(
    ("fields", "status", "kind"),
    [
        ({"max_tokens": None}, 400, "invalid_request_error"),
        ({"model": "gpt-17"}, 400, "invalid_request_error"),
        ({"messages": [{"role": "nobody", "content": ""}]}, 400, "invalid_request_error"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]},
            400,
            "invalid_request_error",
        ),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, 400, None),
        ({"messages": [{"role": "user", "content": [{"type": "tool_result"}]}]}, 400, None),
        (
            {
                "messages": [
                    {
                        "role": "assistant",
                        "content": [{"type": "tool_use", "id": "t", "name": "x", "input": {}}],
                    }
                ]
            },
            400,
            "invalid_request_error",
        ),
        ({"tools": [{"name": "x", "type": "bash_20250124"}]}, 400, None),
        ({"tool_choice": {"type": "tool", "name": "x"}}, 400, None),
        ({"tool_choice": {"type": "tool"}}, 400, None),
        ({"messages": [{"role": "user", "content": "x" * 5000}]}, 400, "invalid_request_error"),
    ],
)
def test_refusals(scripted: Build, fields: dict[str, Any], status: int, kind: str | None) -> None:
    with client(scripted("x")) as http:
        response = http.post("/v1/messages", json=body(**fields))
    assert response.status_code == status
    answer = response.json()
    assert answer["type"] == "error" and set(answer["error"]) == {"type", "message"}
    assert kind in (None, answer["error"]["type"])


@pytest.mark.parametrize("model", ["claude-opus-5", "scripted", "scripted[1m]", "deepseek-v4-pro"])
def test_models(scripted: Build, model: str) -> None:
    with client(scripted("x")) as http:
        assert http.post("/v1/messages", json=body(model=model)).json()["model"] == model


def test_web_search_is_left_out() -> None:
    search = {"type": "web_search_20250305", "name": "web_search"}
    assert asked(tools=[search, WEATHER]).tools[0]["function"]["name"] == "weather"


def test_stop_sequences_have_a_limit(scripted: Build) -> None:
    asking = {"model": "claude", "messages": HELLO, "max_tokens": 1}
    with client(scripted("x")) as http:
        for length, status in ((1000, 200), (1001, 400)):
            asked = asking | {"stop_sequences": ["a" * length]}
            assert http.post("/v1/messages", json=asked).status_code == status


def test_a_stream_begins_with_what_was_cached(scripted: Build) -> None:
    asking = {"model": "claude", "max_tokens": 2, "messages": HELLO, "stream": True}
    engine = scripted("xy")
    start = engine.start

    def found(prepared: Any, deliver: Any) -> Any:
        def change(item: Any) -> None:
            deliver(replace(item, cached=3) if hasattr(item, "cached") else item)

        return start(prepared, change)

    engine.start = found  # type: ignore[method-assign]
    with client(engine) as http:
        ping, first, *_, end, _ = named(http.post("/v1/messages", json=asking).text)
    assert (ping["type"], first["type"]) == ("ping", "message_start")
    begun, used = first["message"]["usage"], end["usage"]
    assert begun["cache_read_input_tokens"] == 3 and begun["output_tokens"] == 0
    assert begun | {"output_tokens": 2} == used
