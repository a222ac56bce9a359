"""Folding of user turns, order of tool results, and what APIs send out of place."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsv4.encoding.chat import render
from dsv4.encoding.messages import Message, ToolCall, fold_for_template
from dsv4.encoding.prepare import fold
from dsv4.errors import EncodingError

CALLS = (ToolCall("f", None, "a"), ToolCall("g", None, "b"), ToolCall("h", None, "c"))
ASKED = Message("assistant", tool_calls=CALLS)


def result(call_id: str | None, text: str) -> Message:
    return Message("tool", text, tool_call_id=call_id)


def wrapped(*texts: str) -> str:
    return "\n\n".join(f"<tool_result>{text}</tool_result>" for text in texts)


def turn(*messages: Message) -> str:
    """Content of the one user turn that follows the calls."""
    asked, folded = fold([ASKED, *messages])
    assert asked is ASKED and folded.role == "user"
    return folded.content


@given(st.permutations([("a", "1"), ("b", "2"), ("c", "3")]))
def test_results_come_in_the_order_of_their_calls(given: list[tuple[str, str]]) -> None:
    assert turn(*(result(*item) for item in given)) == wrapped("1", "2", "3")


def test_other_text_keeps_its_slot() -> None:
    content = turn(result("c", "3"), Message("user", "text"), result("a", "1"))
    assert content == "\n\n".join([wrapped("1"), "text", wrapped("3")])


def test_unknown_ids_count_as_the_first_call_and_sorting_is_stable() -> None:
    content = turn(result("b", "2"), result(None, "x"), result("a", "1"), result("?", "y"))
    assert content == wrapped("x", "1", "y", "2")


def test_results_without_any_known_call_keep_their_order() -> None:
    (folded,) = fold([result("b", "2"), result("a", "1")])
    assert folded.content == wrapped("2", "1")


def test_order_comes_from_the_last_assistant_that_called() -> None:
    again = Message("assistant", tool_calls=(ToolCall("f", None, "b"), ToolCall("f", None, "a")))
    folded = fold([ASKED, result("a", "1"), again, result("a", "1"), result("b", "2")])
    assert folded[-1].content == wrapped("2", "1")


def test_runs_of_user_messages_are_one_turn() -> None:
    messages = [Message("user", "a"), Message("user", ""), Message("user", "b")]
    assert [m.content for m in fold(messages)] == ["a\n\n\n\nb"]
    between = [Message("user", "a"), Message("system", "s"), Message("user", "b")]
    assert [m.content for m in fold(between)] == ["a", "s", "b"]


def test_a_task_ends_its_turn_for_later_text() -> None:
    messages = [Message("user", "a"), Message("user", "b", task="query"), Message("user", "c")]
    folded = fold(messages)
    assert [(m.content, m.task) for m in folded] == [("a\n\nb", "query"), ("c", None)]


def test_tool_content_arrays() -> None:
    parts: list[dict[str, Any]] = [
        {"type": "text", "text": "x"},
        {"type": "image_url", "image_url": {"url": "u"}},
        {"type": "text", "text": "y"},
    ]
    text = render([{"role": "tool", "content": parts}], thinking=False).text
    assert "<tool_result>x\n\n[Unsupported image_url]\n\ny</tool_result>" in text


def test_user_content_arrays() -> None:
    parts = [{"type": "text", "text": "x"}, {"type": "text", "text": "y"}]
    (read,) = fold_for_template([{"role": "user", "content": parts}])
    assert read.content == "x\n\ny"


def roles(*messages: Message) -> list[tuple[str, str]]:
    return [(m.role, m.content) for m in fold_for_template(messages)]


def test_later_system_text_joins_the_user_turn() -> None:
    assert roles(
        Message("system", "S"),
        Message("developer", "D"),
        Message("user", "u"),
        Message("system", "T"),
    ) == [("system", "S"), ("system", "D"), ("user", "u"), ("user", "T")]
    messages = [{"role": "user", "content": "u"}, {"role": "system", "content": "T"}]
    assert render(fold_for_template(messages)).text.endswith(
        "<｜User｜>u\n\nT<｜Assistant｜><think>"
    )


def test_a_reminder_moves_before_its_user_turn() -> None:
    assert roles(
        Message("assistant", "a"),
        Message("tool", "t"),
        Message("user", "u"),
        Message("latest_reminder", "r"),
    ) == [("assistant", "a"), ("latest_reminder", "r"), ("tool", "t"), ("user", "u")]


def test_tools_on_later_system_text_are_refused() -> None:
    later = Message("developer", "d", tools=({"name": "f"},))
    with pytest.raises(EncodingError, match="later developer"):
        fold_for_template([Message("user", "u"), later])
    assert fold_for_template([later, Message("user", "u")])[0].tools == ({"name": "f"},)
