"""The clients against the bundled model: it says what it likes, in the right shapes."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest
from tests.serving import HELLO, PARAMETERS, served

import dsv4

SCHEMA = {
    "type": "object",
    "properties": {"yes": {"type": "boolean"}},
    "required": ["yes"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def base() -> Iterator[str]:
    with served(dsv4.Engine(dsv4.load("nano", "fast"))) as address:
        yield address


@pytest.fixture(scope="module")
def api(base: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{base}/v1", api_key="unused", max_retries=0) as made:
        yield made


@pytest.fixture(scope="module")
def claude(base: str) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=base, api_key="unused", max_retries=0) as made:
        yield made


def test_chat(api: openai.OpenAI) -> None:
    answer = api.chat.completions.create(
        model="nano", messages=HELLO, max_tokens=12, logprobs=True, top_logprobs=2, seed=1
    )
    (choice,) = answer.choices
    assert choice.message.content is not None and choice.logprobs is not None
    assert choice.logprobs.content
    assert all(-100 < entry.logprob <= 0 for entry in choice.logprobs.content)


def test_stream_with_thinking(api: openai.OpenAI) -> None:
    stream = api.chat.completions.create(
        model="nano",
        messages=HELLO,
        max_tokens=40,
        stream=True,
        extra_body={"thinking": {"type": "enabled", "budget_tokens": 8}},
    )
    sent = list(stream)
    thought = [getattr(c.choices[0].delta, "reasoning_content", None) for c in sent]
    assert any(thought)
    usage = sent[-1].usage
    assert usage is not None and usage.completion_tokens_details is not None
    assert usage.completion_tokens_details.reasoning_tokens <= 9


def test_a_schema_is_kept(api: openai.OpenAI) -> None:
    shape: Any = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}
    answer = api.chat.completions.create(
        model="nano", messages=HELLO, max_tokens=60, response_format=shape
    )
    assert answer.choices[0].finish_reason == "stop"
    assert type(json.loads(answer.choices[0].message.content or "")["yes"]) is bool


def test_a_tool_has_to_be_called(api: openai.OpenAI) -> None:
    parameters = SCHEMA
    tool: Any = {"type": "function", "function": {"name": "say", "parameters": parameters}}
    answer = api.chat.completions.create(
        model="nano",
        messages=HELLO,
        max_tokens=120,
        tools=[tool],
        tool_choice="required",
        parallel_tool_calls=False,
    )
    calls = answer.choices[0].message.tool_calls
    assert calls is not None and answer.choices[0].finish_reason == "tool_calls"
    assert type(json.loads(calls[0].function.arguments)["yes"]) is bool


def test_completion(api: openai.OpenAI) -> None:
    answer = api.completions.create(model="nano", prompt="Once upon", max_tokens=5, logprobs=1)
    assert answer.choices[0].text and answer.choices[0].logprobs is not None


def test_response(api: openai.OpenAI) -> None:
    with api.responses.stream(model="nano", input="hello", max_output_tokens=16) as stream:
        kinds = [event.type for event in stream]
    assert kinds[0] == "response.created"
    assert kinds[-1] in ("response.completed", "response.incomplete")


def test_messages(claude: anthropic.Anthropic) -> None:
    tool: Any = {"name": "weather", "input_schema": PARAMETERS}
    asked: Any = {"model": "nano", "messages": HELLO, "tools": [tool]}
    counted = claude.messages.count_tokens(**asked).input_tokens
    answer = claude.messages.create(**asked, max_tokens=12)
    used = answer.usage
    assert counted == used.input_tokens + (used.cache_read_input_tokens or 0)
    with claude.messages.stream(**asked, max_tokens=12) as stream:
        assert stream.get_final_message().stop_reason in ("end_turn", "max_tokens", "tool_use")


def test_models(api: openai.OpenAI) -> None:
    assert api.models.list().data[0].id == "nano"
    assert api.models.retrieve("nano").id == "nano"


DOCS = (Path(__file__).parents[2] / "docs" / "server.md").read_text(encoding="utf-8")
COMMANDS = [line for line in DOCS.splitlines() if line.startswith("curl ")]


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl")
@pytest.mark.parametrize("command", COMMANDS)
def test_commands_of_the_manual(base: str, command: str) -> None:
    words = shlex.split(command.replace("http://127.0.0.1:8000", base))
    done = subprocess.run([*words, "-sS", "--fail-with-body"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
