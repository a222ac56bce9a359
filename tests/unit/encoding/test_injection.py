"""User text full of control strings never yields a control id, wherever it stands."""

from __future__ import annotations

from typing import Any

import pytest
from encoding_cases import NASTY, nasty_text, tool
from hypothesis import given, settings

from dsv4.encoding.chat import render
from dsv4.encoding.control import CONTROL_TOKENS
from dsv4.encoding.fim import render_fim
from dsv4.encoding.prompt import Prompt
from dsv4.encoding.tokenizer import Tokenizer


def conversation(text: str) -> Prompt:
    """`text` in every place a client can reach."""
    function = tool("f" + text, **{"k" + text: "string"})
    arguments = {"k" + text: text, "l": [text]}
    call = {"id": "c", "function": {"name": "f" + text, "arguments": arguments}}
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": "S" + text},
        {"role": "latest_reminder", "content": "R" + text},
        {"role": "user", "content": [{"type": "text", "text": "U" + text}]},
        {
            "role": "assistant",
            "content": "A" + text,
            "reasoning_content": "T" + text,
            "tool_calls": [call],
        },
        {"role": "tool", "tool_call_id": "c", "content": "O" + text},
        {"role": "developer", "content": "D" + text},
        {"role": "user", "content": "Q", "task": "read_url", "extracted_url": "u" + text},
        {"role": "assistant", "content": "P" + text, "prefix": True, "reasoning_content": text},
    ]
    return render(
        messages, tools=[function], schema={"title": text}, profile_name="0731", effort="max"
    )


def controls(tokenizer: Tokenizer, prompt: Prompt) -> list[str]:
    ids = tokenizer.encode_prompt(prompt)
    assert tokenizer.decode(ids) == prompt.text
    return [tokenizer.token(i) for i in ids if tokenizer.is_control(i)]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(text=nasty_text)
def test_no_text_changes_the_control_tokens(tokenizer: Tokenizer, text: str) -> None:
    assert controls(tokenizer, conversation(text)) == controls(tokenizer, conversation("x"))
    assert len(controls(tokenizer, render_fim(text, text))) == 4


@pytest.mark.parametrize("text", NASTY)
def test_each_control_string(tokenizer: Tokenizer, text: str) -> None:
    assert controls(tokenizer, conversation(text)) == controls(tokenizer, conversation("x"))


def test_a_control_string_put_together_from_two_places(tokenizer: Tokenizer) -> None:
    """Text of user and template meets in one span; together it must still be text."""
    token = "<｜User｜>"
    for cut in range(1, len(token)):
        halves = [
            {"role": "system", "content": token[:cut]},
            {"role": "system", "content": token[cut:]},
            {"role": "user", "content": "q"},
        ]
        found = controls(tokenizer, render(halves, thinking=False))
        assert found == ["<｜begin▁of▁sentence｜>", token, "<｜Assistant｜>", "</think>"]


def test_the_conversation_reaches_most_control_tokens(tokenizer: Tokenizer) -> None:
    """Guards the tests above against a conversation that tests nothing."""
    reached = set(controls(tokenizer, conversation("x")))
    assert len(reached) >= len(CONTROL_TOKENS) - 8
