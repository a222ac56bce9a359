"""The real `anthropic` client against a real server on a real socket."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import anthropic
import httpx
import pytest
from tests.serving import HELLO, PARAMETERS, Build, calls, served

from dsv4.chat.engine import Engine
from dsv4.server.accounts import Keys
from dsv4.server.settings import Settings

WEATHER: Any = {"name": "weather", "description": "Of a city", "input_schema": PARAMETERS}
THINK: Any = {"type": "enabled", "budget_tokens": 1024}
ASK: Any = {"model": "claude-sonnet-5", "max_tokens": 2000, "messages": HELLO}


@contextmanager
def client(engine: Engine, key: str = "unused") -> Iterator[anthropic.Anthropic]:
    accounts = Keys(("sk-right",)) if key != "unused" else None
    with (
        served(engine, accounts) as base,
        anthropic.Anthropic(base_url=base, api_key=key, max_retries=0) as made,
    ):
        yield made


def test_answer(scripted: Build) -> None:
    with client(scripted("Hello!"), "sk-right") as api:
        answer = api.messages.create(**ASK)
    (block,) = answer.content
    assert block.type == "text" and block.text == "Hello!"
    assert answer.stop_reason == "end_turn" and answer.usage.output_tokens == 6


def test_stream_with_thinking_and_calls_over_turns(scripted: Build) -> None:
    with client(scripted("hm</think>Well." + calls("Paris", "Rome"))) as api:
        turns: Any = [*HELLO]
        tokens = []
        for _ in range(3):
            asked = ASK | {"messages": turns, "tools": [WEATHER], "thinking": THINK}
            with api.messages.stream(**asked) as stream:
                kinds = [event.type for event in stream]
                final = stream.get_final_message()
            assert kinds[0] == "message_start" and kinds[-1] == "message_stop"
            assert [block.type for block in final.content] == [
                *("thinking", "text", "tool_use", "tool_use")
            ]
            assert final.stop_reason == "tool_use"
            used = [block for block in final.content if block.type == "tool_use"]
            assert [block.input for block in used] == [{"city": "Paris"}, {"city": "Rome"}]
            results = [
                {"type": "tool_result", "tool_use_id": block.id, "content": "sunny"}
                for block in reversed(used)
            ]
            turns += [
                {"role": "assistant", "content": final.content},
                {"role": "user", "content": results},
            ]
            tokens.append(final.usage.input_tokens + (final.usage.cache_read_input_tokens or 0))
    assert tokens[0] < tokens[1] < tokens[2]


def test_text_of_a_stream(scripted: Build) -> None:
    with client(scripted("Grüße")) as api, api.messages.stream(**ASK) as stream:
        assert "".join(stream.text_stream) == "Grüße"


def test_a_schema(scripted: Build) -> None:
    schema = {
        "type": "object",
        "properties": {"a": {"type": "integer"}},
        "required": ["a"],
        "additionalProperties": False,
    }
    config: Any = {"format": {"type": "json_schema", "schema": schema}}
    with client(scripted('{"a": 5}')) as api:
        answer = api.messages.create(**ASK, output_config=config)
    (block,) = answer.content
    assert block.type == "text" and block.text == '{"a": 5}'


def test_count_tokens(scripted: Build) -> None:
    with client(scripted("x")) as api:
        asked = {key: ASK[key] for key in ("model", "messages")}
        counted = api.messages.count_tokens(**asked, tools=[WEATHER], system="brief").input_tokens
        beta = api.beta.messages.count_tokens(**asked, tools=[WEATHER], system="brief")
        answer = api.messages.create(**ASK, tools=[WEATHER], system="brief")
    assert counted == beta.input_tokens == answer.usage.input_tokens


def test_stop_sequences(scripted: Build) -> None:
    with client(scripted("Hello")) as api:
        answer = api.messages.create(**ASK, stop_sequences=["lo"])
    assert (answer.stop_reason, answer.stop_sequence) == ("stop_sequence", "lo")


def test_errors_are_the_clients_exceptions(scripted: Build) -> None:
    with client(scripted("x"), "sk-wrong") as api, pytest.raises(anthropic.AuthenticationError):
        api.messages.create(**ASK)
    with client(scripted("x")) as api:
        with pytest.raises(anthropic.BadRequestError, match="Model Not Exist"):
            api.messages.create(**ASK | {"model": "gpt-17"})
        image: Any = [{"role": "user", "content": [{"type": "image", "source": {"type": "url"}}]}]
        with pytest.raises(anthropic.BadRequestError, match="image"):
            api.messages.create(**ASK | {"messages": image})
        with pytest.raises(anthropic.NotFoundError):
            api.post("/v1/nowhere", cast_to=object)


def test_pings_while_waiting(scripted: Build) -> None:
    with served(scripted("ab", delay=0.2), settings=Settings(keep_alive_seconds=0.05)) as base:
        text = httpx.post(f"{base}/v1/messages", json=ASK | {"stream": True}).text
    assert text.count("event: ping\n") >= 4
    assert text.endswith('event: message_stop\ndata: {"type": "message_stop"}\n\n')
