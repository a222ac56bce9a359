"""The real `openai` client against a real server on a real socket."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import openai
import pytest
from pydantic import BaseModel
from tests.serving import HELLO, WEATHER, Build, calls, served, wait

from dsv4.chat.engine import Engine
from dsv4.server.settings import Settings

CALL = calls("Paris")


@contextmanager
def client(engine: Engine) -> Iterator[openai.OpenAI]:
    with (
        served(engine) as base,
        openai.OpenAI(base_url=f"{base}/v1", api_key="unused", max_retries=0) as made,
    ):
        yield made


def test_answer(scripted: Build) -> None:
    with client(scripted("Hello!")) as api:
        answer = api.chat.completions.create(model="scripted", messages=HELLO)
    assert answer.choices[0].message.content == "Hello!"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None and answer.usage.completion_tokens == 6


def test_stream_with_thinking(scripted: Build) -> None:
    with client(scripted("hm</think>42")) as api:
        stream = api.chat.completions.create(
            model="deepseek-reasoner",
            messages=HELLO,
            stream=True,
            stream_options={"include_usage": True},
        )
        sent = list(stream)
    deltas = [chunk.choices[0].delta for chunk in sent if chunk.choices]
    reasoning = "".join(getattr(d, "reasoning_content", None) or "" for d in deltas)
    assert reasoning == "hm"
    assert "".join(d.content or "" for d in deltas) == "42"
    assert sent[-1].usage is not None
    details = sent[-1].usage.completion_tokens_details
    assert details is not None and details.reasoning_tokens == 3


def test_tool_round_trip(scripted: Build) -> None:
    with client(scripted("Looking." + CALL)) as api:
        first = api.chat.completions.create(
            model="scripted", messages=HELLO, tools=[WEATHER], max_tokens=400
        )
        message = first.choices[0].message
        assert message.tool_calls is not None
        (call,) = message.tool_calls
        assert call.type == "function"
        assert json.loads(call.function.arguments) == {"city": "Paris"}
        result = {"role": "tool", "tool_call_id": call.id, "content": "sunny"}
        history: Any = [*HELLO, message.model_dump(exclude_none=True), result]
        second = api.chat.completions.create(
            model="scripted", messages=history, tools=[WEATHER], max_tokens=400
        )
    assert second.usage is not None and first.usage is not None
    assert second.usage.prompt_tokens > first.usage.prompt_tokens


def test_streamed_tool_call(scripted: Build) -> None:
    with (
        client(scripted(CALL)) as api,
        api.chat.completions.stream(
            model="scripted", messages=HELLO, tools=[WEATHER], max_tokens=400
        ) as stream,
    ):
        final = stream.get_final_completion()
    choice = final.choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.tool_calls is not None
    assert choice.message.tool_calls[0].function.arguments == '{"city": "Paris"}'


def test_errors_are_the_clients_exceptions(scripted: Build) -> None:
    with client(scripted("x")) as api:
        with pytest.raises(openai.BadRequestError, match="Model Not Exist"):
            api.chat.completions.create(model="gpt-17", messages=HELLO)
        with pytest.raises(openai.UnprocessableEntityError, match="temperature"):
            api.chat.completions.create(model="scripted", messages=HELLO, temperature=3)
        long: Any = [{"role": "user", "content": "x" * 5000}]
        with pytest.raises(openai.BadRequestError) as caught:
            api.chat.completions.create(model="scripted", messages=long)
        assert caught.value.code == "context_length_exceeded"


def test_parallel_calls_over_several_turns(scripted: Build) -> None:
    with client(scripted("hm</think>Well." + calls("Paris", "Rome"))) as api:
        history: Any = [*HELLO]
        sizes = []
        for _ in range(3):
            with api.chat.completions.stream(
                model="deepseek-reasoner", messages=history, tools=[WEATHER], max_tokens=800
            ) as stream:
                final = stream.get_final_completion()
            message = final.choices[0].message
            assert message.tool_calls is not None and len(message.tool_calls) == 2
            cities = [json.loads(call.function.arguments)["city"] for call in message.tool_calls]
            assert cities == ["Paris", "Rome"]
            history.append(message.model_dump(exclude_none=True, exclude={"parsed"}))
            for call in reversed(message.tool_calls):
                result = {"role": "tool", "tool_call_id": call.id, "content": "sunny"}
                history.append(result)
            assert final.usage is not None
            sizes.append(final.usage.prompt_tokens)
    assert sizes[0] < sizes[1] < sizes[2]
    assert len({call["id"] for m in history for call in m.get("tool_calls", ())}) == 6


class Weather(BaseModel):
    city: str
    days: int


def test_parsed_answer(scripted: Build) -> None:
    with client(scripted('{"city": "Paris", "days": 3}')) as api:
        answer = api.chat.completions.parse(
            model="scripted", messages=HELLO, response_format=Weather, max_tokens=100
        )
    assert answer.choices[0].message.parsed == Weather(city="Paris", days=3)


def test_logprobs(scripted: Build) -> None:
    with client(scripted("ab")) as api:
        answer = api.chat.completions.create(
            model="scripted", messages=HELLO, logprobs=True, top_logprobs=3
        )
    assert answer.choices[0].logprobs is not None
    content = answer.choices[0].logprobs.content
    assert content is not None and [entry.token for entry in content] == ["a", "b"]
    assert [len(entry.top_logprobs) for entry in content] == [3, 3]


def test_text_completion(scripted: Build) -> None:
    with client(scripted(" upon")) as api:
        answer = api.completions.create(model="scripted", prompt="Once", echo=True, max_tokens=20)
        stream = api.completions.create(
            model="scripted", prompt="Once", suffix="end", stream=True, max_tokens=20
        )
        streamed = "".join(chunk.choices[0].text for chunk in stream)
    assert answer.choices[0].text == "Once upon" and streamed == " upon"


def test_response(scripted: Build) -> None:
    with client(scripted("hm</think>42")) as api:
        answer = api.responses.create(model="deepseek-reasoner", input="hello")
    assert answer.output_text == "42" and answer.status == "completed"
    assert [item.type for item in answer.output] == ["reasoning", "message"]
    assert answer.usage is not None and answer.usage.output_tokens_details.reasoning_tokens == 3


def test_streamed_response_over_several_turns(scripted: Build) -> None:
    tool: Any = {"type": "function", "strict": False, **WEATHER["function"]}
    with client(scripted("hm</think>Well." + calls("Paris", "Rome"))) as api:
        items: Any = [*HELLO]
        for _ in range(2):
            with api.responses.stream(
                model="deepseek-reasoner", input=items, tools=[tool], max_output_tokens=800
            ) as stream:
                kinds = [event.type for event in stream]
                final = stream.get_final_response()
            assert kinds[0] == "response.created" and kinds[-1] == "response.completed"
            made = [item for item in final.output if item.type == "function_call"]
            assert [json.loads(call.arguments)["city"] for call in made] == ["Paris", "Rome"]
            items += [item.model_dump(exclude_none=True) for item in final.output]
            items += [
                {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}
                for call in made
            ]


def test_parsed_response(scripted: Build) -> None:
    with client(scripted('{"city": "Paris", "days": 3}')) as api:
        answer = api.responses.parse(
            model="scripted", input="hello", text_format=Weather, max_output_tokens=100
        )
    assert answer.output_parsed == Weather(city="Paris", days=3)


def test_models(scripted: Build) -> None:
    with client(scripted("x")) as api:
        assert "scripted" in [model.id for model in api.models.list()]


def test_full_queue_is_429_with_retry_after(scripted: Build) -> None:
    engine = scripted("a" * 4000, delay=0.02, queue=1, running=1)
    with client(engine) as api:
        running = api.chat.completions.create(
            model="scripted", messages=HELLO, stream=True, max_tokens=4000
        )
        next(iter(running))
        wait(lambda: _health(api)["running"] == 1 and _health(api)["waiting"] == 0)
        waiting = api.chat.completions.create(
            model="scripted", messages=HELLO, stream=True, max_tokens=1
        )
        with pytest.raises(openai.RateLimitError) as caught:
            api.chat.completions.create(model="scripted", messages=HELLO)
        assert int(caught.value.response.headers["retry-after"]) > 0
        running.close()
        assert [c.choices[0].finish_reason for c in waiting][-1] == "length"


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_frees_the_model(scripted: Build, stream: bool) -> None:
    engine = scripted("a" * 4000, delay=0.02)
    body = {"model": "scripted", "messages": HELLO, "stream": stream, "max_tokens": 4000}
    with served(engine) as base:

        def running() -> int:
            return int(httpx.get(f"{base}/health").json()["running"])

        address = base.removeprefix("http://").split(":")
        raw = json.dumps(body).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(raw)}\r\n"
        with socket.create_connection((address[0], int(address[1]))) as connection:
            connection.sendall(head.encode() + b"\r\n" + raw)
            wait(lambda: running() == 1)
        wait(lambda: running() == 0)
        answer = httpx.post(f"{base}/v1/chat/completions", json=body | {"max_tokens": 1}).text
        assert '"length"' in answer


def test_keep_alive_comments_while_waiting(scripted: Build) -> None:
    engine = scripted("ab", delay=0.3)
    body = {"model": "scripted", "messages": HELLO, "stream": True}
    with served(engine, settings=Settings(keep_alive_seconds=0.05)) as base:
        text = httpx.post(f"{base}/v1/chat/completions", json=body).text
    assert text.count(": keep-alive\n\n") >= 3
    assert text.endswith("data: [DONE]\n\n")


def _health(api: openai.OpenAI) -> dict[str, Any]:
    address = str(api.base_url).removesuffix("/v1/")
    answer: dict[str, Any] = httpx.get(f"{address}/health").json()
    return answer
