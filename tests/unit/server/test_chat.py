"""Chat completions in process: shapes, errors and limits."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from tests.serving import Build, chunks, client

from dsv4.engine.sampler import Sampler
from dsv4.server import body as bodies
from dsv4.server import failure
from dsv4.server.app import create_app
from dsv4.server.settings import Settings

CALL = (
    'Let me see.\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name="weather">\n'
    '<｜DSML｜parameter name="city" string="true">Pa"ris</｜DSML｜parameter>\n'
    '<｜DSML｜parameter name="days" string="false">3</｜DSML｜parameter>\n'
    "</｜DSML｜invoke>\n</｜DSML｜tool_calls>"
)
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}


def body(**fields: Any) -> dict[str, Any]:
    return {"model": "scripted", "messages": [{"role": "user", "content": "hi"}], **fields}


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/chat/completions"])
def test_answer(scripted: Build, path: str) -> None:
    with client(scripted("Hello!")) as http:
        response = http.post(path, json=body())
    assert response.status_code == 200
    answer = response.json()
    assert answer["object"] == "chat.completion"
    assert answer["model"] == "scripted"
    (choice,) = answer["choices"]
    assert choice["message"] == {"role": "assistant", "content": "Hello!"}
    assert choice["finish_reason"] == "stop"
    usage = answer["usage"]
    assert usage["completion_tokens"] == 6
    assert usage["total_tokens"] == usage["prompt_tokens"] + 6
    assert (
        usage["prompt_cache_hit_tokens"] + usage["prompt_cache_miss_tokens"]
        == (usage["prompt_tokens"])
    )
    assert usage["completion_tokens_details"] == {"reasoning_tokens": 0}


def test_thinking(scripted: Build) -> None:
    asked = body(thinking={"type": "enabled"})
    with client(scripted("hm</think>42")) as http:
        message = http.post("/v1/chat/completions", json=asked).json()["choices"][0]["message"]
    assert message == {"role": "assistant", "content": "42", "reasoning_content": "hm"}


@pytest.mark.parametrize(
    ("fields", "thinks"),
    [
        ({}, False),  # the folder's default
        ({"thinking": {"type": "enabled"}}, True),
        ({"thinking": {"type": "disabled"}, "reasoning_effort": "max"}, False),
        ({"reasoning_effort": "low"}, True),
        ({"reasoning_effort": "none"}, False),
        ({"model": "deepseek-reasoner"}, True),
        ({"model": "deepseek-chat"}, False),
        ({"model": "deepseek-v4-flash"}, False),
        ({"chat_template_kwargs": {"enable_thinking": True}}, True),
        ({"chat_template_kwargs": {"thinking": False}, "model": "deepseek-reasoner"}, False),
    ],
)
def test_who_decides_about_thinking(scripted: Build, fields: dict[str, Any], thinks: bool) -> None:
    with client(scripted("a</think>b")) as http:
        answer = http.post("/v1/chat/completions", json=body(**fields)).json()
    assert ("reasoning_content" in answer["choices"][0]["message"]) == thinks


def test_tool_call(scripted: Build) -> None:
    with client(scripted(CALL)) as http:
        answer = http.post(
            "/v1/chat/completions", json=body(tools=[WEATHER], max_tokens=500)
        ).json()
    (choice,) = answer["choices"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] == "Let me see."
    (call,) = choice["message"]["tool_calls"]
    assert call["type"] == "function" and call["id"].startswith("call_00_")
    assert call["function"]["name"] == "weather"
    assert json.loads(call["function"]["arguments"]) == {"city": 'Pa"ris', "days": 3}


def test_tool_choice_none_hides_the_tools(scripted: Build) -> None:
    with client(scripted(CALL)) as http:
        asked = body(tools=[WEATHER], tool_choice="none")
        answer = http.post("/v1/chat/completions", json=asked).json()
    assert "tool_calls" not in answer["choices"][0]["message"]


def test_stream_has_the_recorded_shape(scripted: Build) -> None:
    asked = body(stream=True, thinking={"type": "enabled"}, tools=[WEATHER], max_tokens=500)
    with client(scripted("hm</think>" + CALL)) as http:
        response = http.post("/v1/chat/completions", json=asked)
    assert response.headers["content-type"].startswith("text/event-stream")
    sent = chunks(response.text)
    assert len({(c["id"], c["created"], c["model"]) for c in sent}) == 1
    assert all(c["object"] == "chat.completion.chunk" for c in sent)
    deltas = [c["choices"][0]["delta"] for c in sent]
    assert deltas[0] == {"role": "assistant", "content": None, "reasoning_content": ""}
    assert all("role" not in delta for delta in deltas[1:])
    assert deltas[1] == {"content": None, "reasoning_content": "h"}
    assert "".join(d.get("reasoning_content") or "" for d in deltas) == "hm"
    assert "".join(d.get("content") or "" for d in deltas) == "Let me see."
    calls = [d["tool_calls"][0] for d in deltas if "tool_calls" in d]
    assert calls[0]["type"] == "function" and calls[0]["function"]["arguments"] == ""
    assert all("id" not in call for call in calls[1:])
    arguments = "".join(call["function"]["arguments"] for call in calls)
    assert json.loads(arguments) == {"city": 'Pa"ris', "days": 3}
    reasons = [c["choices"][0]["finish_reason"] for c in sent]
    assert reasons == [None] * (len(sent) - 1) + ["tool_calls"]
    assert deltas[-1] == {"content": "", "reasoning_content": None}
    assert [c["usage"] is None for c in sent] == [True] * (len(sent) - 1) + [False]


def test_usage_chunk_on_request(scripted: Build) -> None:
    asked = body(stream=True, stream_options={"include_usage": True})
    with client(scripted("abc")) as http:
        sent = chunks(http.post("/v1/chat/completions", json=asked).text)
    assert sent[-1]["choices"] == []
    assert sent[-1]["usage"]["completion_tokens"] == 3
    assert all(c["usage"] is None for c in sent[:-1])
    assert [c["choices"][0]["finish_reason"] for c in sent[-2:-1]] == ["stop"]


def test_stream_and_whole_say_the_same(scripted: Build) -> None:
    with client(scripted("Grüße, 世界")) as http:
        whole = http.post("/v1/chat/completions", json=body()).json()
        sent = chunks(http.post("/v1/chat/completions", json=body(stream=True)).text)
    text = "".join(c["choices"][0]["delta"]["content"] for c in sent)
    assert text == whole["choices"][0]["message"]["content"] == "Grüße, 世界"
    assert sent[-1]["usage"] == whole["usage"]


@pytest.mark.parametrize("stop", ["lo", ["x", "lo"]])
def test_stop(scripted: Build, stop: Any) -> None:
    with client(scripted("Hello")) as http:
        (choice,) = http.post("/v1/chat/completions", json=body(stop=stop)).json()["choices"]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("Hel", "stop")


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
def test_max_tokens(scripted: Build, field: str) -> None:
    with client(scripted("Hello")) as http:
        answer = http.post("/v1/chat/completions", json=body(**{field: 2})).json()
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens"] == 2


def test_health(scripted: Build) -> None:
    with client(scripted("x")) as http:
        health = http.get("/health").json()
    assert health["status"] == "ok" and health["model"] == "scripted"


def test_a_list_of_stops_that_is_too_long_says_so(scripted: Build) -> None:
    with client(scripted("x")) as http:
        response = http.post("/v1/chat/completions", json=body(stop=["x"] * 17))
    assert "16" in response.json()["error"]["message"]


def test_whole_numbers_may_stand_for_real_ones(scripted: Build) -> None:
    with client(scripted("x")) as http:
        asked = body(temperature=0, top_p=1, stream=False)
        assert http.post("/v1/chat/completions", json=asked).status_code == 200


@pytest.mark.parametrize("where", ["role", "field"])
def test_half_a_surrogate_pair_is_a_client_error(scripted: Build, where: str) -> None:
    half = "\ud83d"
    asked = body(tools=[{"function": {"name": half}}])
    if where == "role":
        asked = body(messages=[{"role": half, "content": "x"}])
    with client(scripted("x")) as http:
        response = http.post("/v1/chat/completions", content=json.dumps(asked))
    assert response.status_code in (400, 422)
    assert response.json()["error"]["message"]


def test_error_bodies_can_always_be_sent() -> None:
    sent = failure.body("bad \ud83d", 400, param="x.\udfff")
    assert sent["error"]["message"] == "bad ?" and sent["error"]["param"] == "x.?"


def test_the_prompt_holds_the_tools_as_the_client_wrote_them(scripted: Build) -> None:
    function = {"strict": True, "parameters": {"type": "object"}, "name": "f", "description": None}
    engine = scripted("x")
    seen: list[Any] = []
    prepare = engine.prepare
    engine.prepare = lambda request: (seen.append(prepare(request)), seen[-1])[1]  # type: ignore[method-assign]
    with client(engine) as http:
        asked = body(tools=[{"type": "function", "function": function}])
        assert http.post("/v1/chat/completions", json=asked).status_code == 200
    prompt = engine.model.tokenizer.decode(seen[0].ids)
    assert json.dumps(function) in prompt


def test_a_client_that_leaves_during_its_upload_is_no_error(scripted: Build) -> None:
    incoming = [
        {"type": "http.request", "body": b'{"model": ', "more_body": True},
        {"type": "http.disconnect"},
    ]
    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": "POST",
        "path": "/v1/chat/completions",
        "query_string": b"",
        "headers": [],
    }
    sent: list[Any] = []

    async def receive() -> Any:
        return incoming.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(create_app(scripted("x"))(scope, receive, send))
    assert sent[0]["status"] == 499


def test_bodies_are_parsed_beside_the_event_loop(
    scripted: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[bool] = []

    def parse(data: bytearray, kind: Any) -> Any:
        try:
            asyncio.get_running_loop()
            threads.append(False)
        except RuntimeError:
            threads.append(True)
        return original(data, kind)

    original = bodies.parse
    monkeypatch.setattr(bodies, "parse", parse)
    with client(scripted("x")) as http:
        assert http.post("/v1/chat/completions", json=body()).status_code == 200
    assert threads == [True]


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe", b"[" * 100_000, b'{"a": NaN}'])
def test_bodies_that_are_no_request(scripted: Build, content: bytes) -> None:
    with client(scripted("x")) as http:
        response = http.post("/v1/chat/completions", content=content)
        assert response.status_code in (400, 422)
        assert response.json()["error"]["type"] == "invalid_request_error"
        assert http.post("/v1/chat/completions", json=body()).status_code == 200


def test_large_body(scripted: Build) -> None:
    with client(scripted("x"), settings=Settings(most_body=1000)) as http:
        response = http.post("/v1/chat/completions", json=body(user="u" * 1000))
    assert response.status_code == 413
    assert "body exceeds" in response.json()["error"]["message"]


@pytest.mark.parametrize("method_path", [("GET", "/v1/chat/completions"), ("GET", "/nowhere")])
def test_wrong_routes_have_the_error_body(scripted: Build, method_path: tuple[str, str]) -> None:
    with client(scripted("x")) as http:
        response = http.request(*method_path)
    assert response.status_code in (404, 405)
    assert response.headers.get("allow") == ("POST" if response.status_code == 405 else None)
    assert response.json()["error"]["type"] == "invalid_request_error"


def test_unknown_fields_are_ignored(scripted: Build) -> None:
    with client(scripted("x")) as http:
        asked = body(user="me", store=False, frequency_penalty=1, metadata={"a": 1})
        assert http.post("/v1/chat/completions", json=asked).status_code == 200


def test_a_bug_in_the_engine_is_a_500_and_the_server_goes_on(
    scripted: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = scripted("x")
    draw = Sampler.draw

    def broken(*args: Any, **kwargs: Any) -> Any:
        raise ZeroDivisionError("secret detail")

    with client(engine) as http:
        monkeypatch.setattr(Sampler, "draw", broken)
        response = http.post("/v1/chat/completions", json=body())
        assert response.status_code == 500
        assert response.json()["error"]["type"] == "server_error"
        assert "secret" not in response.text and response.headers["x-request-id"]
        streamed = http.post("/v1/chat/completions", json=body(stream=True)).text
        assert '"error"' in streamed and "[DONE]" not in streamed
        assert 'finish_reason": "stop' not in streamed
        monkeypatch.setattr(Sampler, "draw", draw)
        assert http.post("/v1/chat/completions", json=body()).status_code == 200


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/beta/chat/completions"])
def test_a_prefix_is_continued(scripted: Build, path: str) -> None:
    turns = [*body()["messages"], {"role": "assistant", "content": "Once", "prefix": True}]
    engine = scripted(" upon")
    with client(engine) as http:
        answer = http.post(path, json=body(messages=turns)).json()
    assert answer["choices"][0]["message"]["content"] == " upon"


def test_logprobs_of_thinking_stand_apart(scripted: Build) -> None:
    options = body(thinking={"type": "enabled"}, logprobs=True, top_logprobs=1)
    with client(scripted("hm</think>42")) as http:
        (choice,) = http.post("/v1/chat/completions", json=options).json()["choices"]
        sent = chunks(http.post("/v1/chat/completions", json=options | {"stream": True}).text)
    reported = choice["logprobs"]
    assert "".join(entry["token"] for entry in reported["reasoning_content"]) == "hm"
    assert "".join(entry["token"] for entry in reported["content"]) == "42"
    parts = [c["choices"][0]["logprobs"] for c in sent if c["choices"][0]["logprobs"]]
    for key in reported:
        assert [entry for part in parts for entry in part[key]] == reported[key]


def test_answers_may_fill_the_context_and_no_more(scripted: Build) -> None:
    with client(scripted("a" * 5000)) as http:
        answer = http.post("/v1/chat/completions", json=body(max_tokens=10**9)).json()
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["total_tokens"] == 4096


def test_a_context_that_is_exceeded_is_told_in_numbers(scripted: Build) -> None:
    long = body(messages=[{"role": "user", "content": "x" * 5000}])
    with client(scripted("a")) as http:
        error = http.post("/v1/chat/completions", json=long).json()["error"]
    assert error["code"] == "context_length_exceeded"
    assert "4096" in error["message"] and "5004" in error["message"]
