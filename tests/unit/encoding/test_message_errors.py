"""Bad conversations are refused by name, with advice."""

from __future__ import annotations

from typing import Any

import pytest

from dsv4.encoding.chat import render
from dsv4.errors import EncodingError

USER = {"role": "user", "content": "q"}


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([], "no messages"),
        ("hello", "must be a list"),
        (["hello"], "message 0 is not an object"),
        ([USER, {"content": "x"}], "message 1: role must be a string"),
        ([{"role": "robot", "content": "x"}], "message 0 has unknown role 'robot'"),
        ([USER, {"role": "user"}], "message 1 \\('user'\\) has no content"),
        ([{"role": "assistant"}], "message 0 \\('assistant'\\) has no content"),
        ([{"role": "system", "content": None}], "null content"),
        ([{"role": "user", "content": 5}], "content is not a list"),
        ([{"role": "user", "content": ["x"]}], "content part is not an object"),
        ([{"role": "user", "content": [{"type": "text"}]}], "text of a content part"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], "'image_url' are not supported"),
        ([{"role": "developer", "content": ""}], "developer message needs content"),
        ([{**USER, "task": "dance"}], "unknown task 'dance'"),
        ([{**USER, "extracted_url": "u"}], "extracted_url needs"),
        ([{**USER, "prefix": True}], "has tool_calls, prefix or wo_eos"),
        ([{**USER, "tools": [{"name": "f"}]}], "has tools or response_format"),
        ([{"role": "assistant", "content": "", "prefix": True}, USER], "not the last message"),
        ([{"role": "assistant", "reasoning_content": 3}], "reasoning must be a string"),
        ([{"role": "assistant", "content": "", "wo_eos": "no"}], "wo_eos must be true or false"),
        ([{"role": "assistant", "content": "", "prefix": 1}], "prefix must be true or false"),
        ([{"role": "assistant", "tool_calls": {}}], "tool_calls is not a list"),
        ([{"role": "assistant", "tool_calls": [{}]}], "tool_calls\\[0\\] has no function"),
        ([{"role": "assistant", "tool_calls": [{"function": {}}]}], "name of tool_calls\\[0\\]"),
        (
            [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": 1}}]}],
            "no string or object",
        ),
        (
            [
                {
                    "role": "assistant",
                    "tool_calls": [{"function": {"name": "f", "arguments": {1: 2}}}],
                }
            ],
            "key that is no text",
        ),
        ([{"role": "system", "content": "", "response_format": "x"}], "JSON schema object"),
    ],
)
def test_bad_messages(messages: Any, message: str) -> None:
    with pytest.raises(EncodingError, match=message) as caught:
        render(messages)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("message", [{}, {"content": None}, {"content": "x"}])
def test_a_broken_role_does_not_break_the_error(message: dict[str, Any]) -> None:
    """Half of a surrogate pair is JSON, but no text that could be sent."""
    with pytest.raises(EncodingError) as caught:
        render([{"role": "\ud83d", **message}])
    assert r"'\ud83d'" in str(caught.value)
    str(caught.value).encode()


@pytest.mark.parametrize("tools", [{"name": "f"}, [{}], ["f"], [{"type": "function"}], "f"])
def test_bad_tools(tools: Any) -> None:
    with pytest.raises(EncodingError, match="tools"):
        render([USER], tools=tools)


def test_bad_schema() -> None:
    with pytest.raises(EncodingError, match="schema"):
        render([USER], schema="x")  # type: ignore[arg-type]


def test_endless_nesting_in_a_tool_is_refused() -> None:
    deep: Any = []
    deep.append(deep)
    with pytest.raises(EncodingError, match="JSON"):
        render([USER], tools=[{"name": "f", "parameters": deep}])


@pytest.mark.parametrize("content", [None, ""])
def test_an_empty_answer_in_history_is_fine(content: str | None) -> None:
    messages = [USER, {"role": "assistant", "content": content}]
    assert render(messages).text.endswith("<think></think><｜end▁of▁sentence｜>")


def test_unknown_keys_are_ignored() -> None:
    assert render([{**USER, "name": "Ann", "x": 1}]).text == render([USER]).text
