"""Responses in process: what is asked of the engine, and what comes back."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.serving import PARAMETERS, Build, calls, client, named

from dsv4.chat.answer import Alternative, Finish, Logprobs, Usage
from dsv4.chat.defaults import Defaults
from dsv4.chat.request import Named, Pattern, Request, Schema
from dsv4.encoding.events import ContentDelta
from dsv4.engine.sampler import Sampler
from dsv4.server.responses_answer import ResponsesAnswer
from dsv4.server.responses_body import CUSTOM_PARAMETERS, ResponsesBody
from dsv4.server.responses_items import seal
from dsv4.server.settings import Settings

WEATHER = {"type": "function", "name": "weather", "parameters": PARAMETERS}
PATCH = {"type": "custom", "name": "apply_patch", "description": "Edit files"}
PATCHED = (
    '\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name="apply_patch">\n'
    '<｜DSML｜parameter name="input" string="true">*** "Begin"\nx</｜DSML｜parameter>\n'
    "</｜DSML｜invoke>\n</｜DSML｜tool_calls>"
)
THINK = {"effort": "high"}


def body(**fields: Any) -> dict[str, Any]:
    return {"model": "scripted", "input": "hello", "max_output_tokens": 500, **fields}


def asked(**fields: Any) -> Request:
    return ResponsesBody.model_validate(body(**fields)).request(Defaults())


@pytest.mark.parametrize("path", ["/v1/responses", "/responses"])
def test_answer(scripted: Build, path: str) -> None:
    with client(scripted("Hello!")) as http:
        answer = http.post(path, json=body()).json()
    assert answer["object"] == "response" and answer["status"] == "completed"
    (item,) = answer["output"]
    assert item["type"] == "message" and item["status"] == "completed"
    assert item["content"] == [
        {"type": "output_text", "text": "Hello!", "annotations": [], "logprobs": []}
    ]
    used = answer["usage"]
    assert used["output_tokens"] == 6
    assert used["total_tokens"] == used["input_tokens"] + 6
    assert answer["store"] is False


def test_the_stream_is_what_its_clients_read(scripted: Build) -> None:
    engine = scripted("hm</think>Well." + calls("Paris", "Rome"))
    asking = body(reasoning=THINK, tools=[WEATHER], stream=True)
    with client(engine) as http:
        response = http.post("/v1/responses", json=asking)
    sent = named(response.text)
    assert [event["sequence_number"] for event in sent] == list(range(len(sent)))
    kinds = [event["type"].removeprefix("response.") for event in sent]
    once = [kind for i, kind in enumerate(kinds) if i == 0 or kind != kinds[i - 1]]
    call = [
        "output_item.added",
        "function_call_arguments.delta",
        "function_call_arguments.done",
        "output_item.done",
    ]
    assert once == [
        *("created", "in_progress"),
        *("output_item.added", "content_part.added", "reasoning_text.delta"),
        *("reasoning_text.done", "content_part.done", "output_item.done"),
        *("output_item.added", "content_part.added", "output_text.delta"),
        *("output_text.done", "content_part.done", "output_item.done"),
        *call,
        *call,
        "completed",
    ]
    done = [event["item"] for event in sent if event["type"] == "response.output_item.done"]
    assert [item["type"] for item in done] == [
        *("reasoning", "message", "function_call", "function_call")
    ]
    assert done == sent[-1]["response"]["output"]
    assert done[0]["content"] == [{"type": "reasoning_text", "text": "hm"}]
    assert done[0]["encrypted_content"] == seal("hm")
    assert [json.loads(item["arguments"])["city"] for item in done[2:]] == ["Paris", "Rome"]
    assert done[2]["call_id"] != done[3]["call_id"]
    where = [event["output_index"] for event in sent if "output_index" in event]
    assert where == sorted(where) and where[-1] == 3
    assert sent[-1]["response"]["id"] == sent[0]["response"]["id"]
    assert sent[0]["response"]["output"] == [] and sent[0]["response"]["usage"] is None
    assert "[DONE]" not in response.text


def test_custom_tools_get_text(scripted: Build) -> None:
    with client(scripted(PATCHED)) as http:
        (item,) = http.post("/v1/responses", json=body(tools=[PATCH])).json()["output"]
        sent = named(http.post("/v1/responses", json=body(tools=[PATCH], stream=True)).text)
    assert (item["type"], item["input"]) == ("custom_tool_call", '*** "Begin"\nx')
    (delta,) = [e for e in sent if e["type"] == "response.custom_tool_call_input.delta"]
    (done,) = [e for e in sent if e["type"] == "response.custom_tool_call_input.done"]
    assert delta["delta"] == done["input"] == item["input"]


def test_a_full_answer_is_incomplete(scripted: Build) -> None:
    asking = body(tools=[WEATHER], max_output_tokens=80)
    with client(scripted("Well." + calls("Paris" * 50))) as http:
        answer = http.post("/v1/responses", json=asking).json()
        sent = named(http.post("/v1/responses", json=asking | {"stream": True}).text)
    assert answer["status"] == "incomplete"
    assert answer["incomplete_details"] == {"reason": "max_output_tokens"}
    assert [item["type"] for item in answer["output"]] == ["message"]
    assert sent[-1]["type"] == "response.incomplete"
    acted_on = [e["item"]["type"] for e in sent if e["type"] == "response.output_item.done"]
    assert acted_on == ["message"]


def test_a_stream_that_fails_says_so(scripted: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise ZeroDivisionError("secret detail")

    with client(scripted("x")) as http:
        monkeypatch.setattr(Sampler, "draw", broken)
        sent = named(http.post("/v1/responses", json=body(stream=True)).text)
    assert sent[-1]["type"] == "response.failed"
    assert sent[-1]["response"]["status"] == "failed"
    assert sent[-1]["response"]["error"]["code"] == "server_error"
    assert "secret" not in str(sent)


def test_waiting_is_told_in_events(scripted: Build) -> None:
    with client(scripted("ab", delay=0.2), settings=Settings(keep_alive_seconds=0.05)) as http:
        sent = named(http.post("/v1/responses", json=body(stream=True)).text)
    kinds = [event["type"] for event in sent]
    assert kinds.count("response.in_progress") > 2 and kinds[-1] == "response.completed"


def test_items_become_messages() -> None:
    items = [
        {"role": "developer", "content": "rules"},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "a"}]},
        {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]},
        {
            "type": "message",
            "role": "assistant",
            "content": [{"type": "output_text", "text": "b", "annotations": []}],
        },
        {"type": "function_call", "call_id": "c1", "name": "f", "arguments": '{"x": 1}'},
        {"type": "custom_tool_call", "call_id": "c2", "name": "apply_patch", "input": "é"},
        {"type": "function_call_output", "call_id": "c1", "output": "one"},
        {
            "type": "custom_tool_call_output",
            "call_id": "c2",
            "output": [{"type": "input_text", "text": "two"}],
        },
        {"type": "reasoning", "summary": [], "encrypted_content": seal("so")},
        {"type": "web_search_call", "id": "w"},
        {"type": "function_call", "call_id": "c3", "name": "f", "arguments": "{}"},
    ]
    assert asked(input=items, instructions="be brief").messages == [
        {"role": "system", "content": "be brief"},
        {"role": "developer", "content": "rules"},
        {"role": "user", "content": "a"},
        {
            "role": "assistant",
            "content": "b",
            "reasoning_content": "hm",
            "tool_calls": [
                _call("c1", "f", '{"x": 1}'),
                _call("c2", "apply_patch", '{"input": "é"}'),
            ],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "one"},
        {"role": "tool", "tool_call_id": "c2", "content": [{"type": "text", "text": "two"}]},
        {
            "role": "assistant",
            "content": "",
            "reasoning_content": "so",
            "tool_calls": [_call("c3", "f", "{}")],
        },
    ]


def _call(name: str, function: str, arguments: str) -> dict[str, Any]:
    called = {"name": function, "arguments": arguments}
    return {"id": name, "type": "function", "function": called}


def test_reasoning_sealed_by_others_is_left_out() -> None:
    items = [{"type": "reasoning", "summary": [], "encrypted_content": "gAAAA"}]
    (message,) = asked(input=items).messages
    assert isinstance(message, dict) and message["reasoning_content"] == ""


def test_options_reach_the_engine() -> None:
    made = asked(
        tools=[WEATHER, PATCH, {"type": "web_search"}],
        tool_choice={"type": "function", "name": "weather"},
        parallel_tool_calls=False,
        reasoning={"effort": "low"},
        text={"format": {"type": "json_schema", "name": "x", "schema": {"type": "object"}}},
        top_logprobs=3,
        user="me",
    )
    assert [tool["function"]["name"] for tool in made.tools] == ["weather", "apply_patch"]
    assert made.tools[1]["function"]["parameters"] == CUSTOM_PARAMETERS
    assert (made.tool_choice, made.parallel) == (Named("weather"), False)
    assert (made.effort, made.logprobs, made.user) == ("low", 3, "me")
    assert made.format == Schema({"type": "object"})
    assert asked(text={"format": {"type": "regex", "regex": "a+"}}).format == Pattern("a+")
    assert asked(reasoning={"effort": "none"}).effort == "none"
    assert asked(include=["message.output_text.logprobs"]).logprobs == 0
    assert asked().logprobs is None
    some = {"type": "allowed_tools", "mode": "required", "tools": [{"name": "weather"}]}
    made = asked(tools=[WEATHER, PATCH], tool_choice=some)
    assert [tool["function"]["name"] for tool in made.tools] == ["weather"]
    assert made.tool_choice == "required"


def test_logprobs_travel_with_the_next_delta() -> None:
    writer = ResponsesAnswer("m", {}, custom=frozenset(), logprobs=True)
    token = Alternative("x", b"x", -0.5)
    other = Alternative("y", b"y", float("-inf"))
    events = [
        Logprobs(token, (token, other), reasoning=False),
        ContentDelta("x"),
        Finish("stop", Usage(1, 1, 0)),
    ]
    (item,) = writer.whole(events)["output"]
    (entry,) = item["content"][0]["logprobs"]
    assert (entry["token"], entry["logprob"], entry["bytes"]) == ("x", -0.5, [120])
    assert [top["logprob"] for top in entry["top_logprobs"]] == [-0.5, -9999.0]


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"input": []}, 400),
        ({"input": 5}, 422),
        ({"input": [{"type": "nonsense"}]}, 400),
        ({"input": [{"type": "function_call"}]}, 400),
        ({"input": [{"type": "function_call_output", "call_id": "x", "output": 5}]}, 400),
        ({"input": [{"type": "function_call_output", "call_id": "x", "output": [5]}]}, 400),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, 400),
        ({"input": [{"type": "reasoning", "encrypted_content": "dsv4:!"}]}, 400),
        ({"tool_choice": {"type": "file_search"}}, 400),
        ({"tool_choice": "required"}, 400),
        ({"tools": [{"type": "function"}]}, 400),
        ({"model": "gpt-17"}, 400),
    ],
)
def test_refusals(scripted: Build, fields: dict[str, Any], status: int) -> None:
    with client(scripted("x")) as http:
        response = http.post("/v1/responses", json=body(**fields))
    assert response.status_code == status
    assert set(response.json()["error"]) == {"message", "type", "param", "code"}
