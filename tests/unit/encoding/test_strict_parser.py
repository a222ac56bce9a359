"""The strict parser accepts exactly what the template writes."""

from __future__ import annotations

import pytest
from encoding_cases import D, block, harmless_text, invoke, nasty_text, official, parameter, replies
from hypothesis import given, settings

from dsv4.encoding.chat import render_reply
from dsv4.encoding.events import Reply
from dsv4.encoding.messages import ToolCall
from dsv4.encoding.parse import parse
from dsv4.errors import ParseError

EOS = "<｜end▁of▁sentence｜>"


@settings(max_examples=150, deadline=None, derandomize=True)
@given(replies(harmless_text))
def test_parse_inverts_render(reply: Reply) -> None:
    prompt = render_reply(reply.message(), thinking=True)
    assert parse(prompt.text, thinking=True) == reply
    assert parse(prompt.text.removesuffix(EOS), thinking=True) == reply
    chat = Reply(None, reply.content, reply.tool_calls)
    assert parse(render_reply(chat.message(), thinking=False).text, thinking=False) == chat


@settings(max_examples=150, deadline=None, derandomize=True)
@given(replies(nasty_text))
def test_parse_of_tokens_inverts_render_of_any_text(reply: Reply) -> None:
    """With tokens known, even text full of control strings survives."""
    prompt = render_reply(reply.message(), thinking=True)
    assert parse(prompt.spans, thinking=True) == reply


@pytest.mark.parametrize(("number", "thinking"), [(1, True), (2, True), (3, True)])
def test_official_answers_are_read_back(number: int, thinking: bool) -> None:
    messages, _, expected = official(number)
    given = [m for m in messages if m["role"] == "assistant" and m["reasoning_content"]]
    shown = [
        part.partition("<think>")[2].partition(EOS)[0]
        for part in expected.split("<｜Assistant｜>")[1:]
    ]
    read = [parse(answer, thinking=True) for answer in shown if answer]
    assert len(read) >= 1
    for message, reply in zip(given[-len(read) :], read, strict=True):
        assert reply.reasoning == message["reasoning_content"]
        assert reply.content == message.get("content", "")
        calls = [c["function"] for c in message.get("tool_calls", [])]
        assert [(c.name, c.arguments) for c in reply.tool_calls] == [
            (c["name"], c["arguments"]) for c in calls
        ]


def test_official_quick_task_is_read_back() -> None:
    _, _, expected = official(4)
    assert parse(expected.partition("<｜action｜>")[2], thinking=False) == Reply(None, "Search")


GOOD = block(invoke("f", parameter("a", "x")))


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ("reasoning only", "not closed"),
        ("r</think>c" + EOS + "more", "follows the end"),
        ("r</think>a</think>b", "content contains the control token </think>"),
        ("r<｜User｜></think>", "reasoning contains the control token <｜User｜>"),
        (f"r{GOOD}</think>", "reasoning contains"),
        (f"</think>{GOOD[1:]}", "content contains"),
        (f"</think>{GOOD}\n", "follows the calls block"),
        (f"</think>{GOOD}{GOOD}", "follows the calls block"),
        (f"</think>{GOOD[:-3]}", "expected"),
        (f"</think>\n\n<{D}tool_calls>\n</{D}tool_calls>", "holds no call"),
        ("</think>" + block(invoke("f", parameter("a", "1"), parameter("a", "2"))), "two param"),
        ("</think>" + block(invoke("f", parameter("a", "{", ' string="false"'))), "not JSON"),
        ("</think>" + block(invoke("f", parameter("a", "NaN", ' string="false"'))), "not JSON"),
        ("</think>" + block(invoke("f", parameter("a", "1", ""))), "malformed"),
        ("</think>" + block(invoke("f", parameter("a", "1", ' string="yes"'))), "malformed"),
        ("</think>" + block(invoke("f", parameter("a", f"x<{D}y"))), "not closed"),
        ("</think>" + block(invoke("f") + " "), "expected"),
        ("</think>" + block(f'<{D}invoke name="f"></{D}invoke>'), "malformed"),
        ("</think>" + block(invoke("f"), wrapper="toolcalls"), "content contains"),
    ],
)
def test_departures_are_refused(answer: str, message: str) -> None:
    with pytest.raises(ParseError, match=message) as caught:
        parse(answer, thinking=True)
    assert "\n" not in str(caught.value)


def test_message_of_a_reply_can_be_sent_back() -> None:
    reply = Reply("r", "c", (ToolCall("f", '{"a": 1}'),))
    assert reply.message() == {
        "role": "assistant",
        "content": "c",
        "reasoning_content": "r",
        "tool_calls": [
            {
                "id": "call_00",
                "type": "function",
                "function": {"name": "f", "arguments": '{"a": 1}'},
            }
        ],
    }
    assert Reply(None, "c").message() == {"role": "assistant", "content": "c"}
