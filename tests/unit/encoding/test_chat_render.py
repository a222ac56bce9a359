"""The rules of the template that the official pairs do not reach."""

from __future__ import annotations

import re
from typing import Any

import pytest
from encoding_cases import block, invoke, tool

from dsv4.encoding.chat import render, render_reply
from dsv4.encoding.control import TASKS
from dsv4.encoding.template import EFFORT_ABSOLUTE, EFFORT_BEYOND, RESPONSE_FORMAT_HEAD
from dsv4.errors import EncodingError

BOS, EOS = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"
U, A = "<｜User｜>", "<｜Assistant｜>"


def user(text: str, **more: Any) -> dict[str, Any]:
    return {"role": "user", "content": text, **more}


def assistant(text: str, reasoning: str | None = None, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text, "reasoning_content": reasoning, **more}


def system(text: str, **more: Any) -> dict[str, Any]:
    return {"role": "system", "content": text, **more}


CALLS = [{"id": "c", "function": {"name": "f", "arguments": "{}"}}]
CALLS_TEXT = block(invoke("f"))


@pytest.mark.parametrize(
    ("profile", "effort", "prefix"),
    [
        ("launch", None, ""),
        ("launch", "none", ""),
        ("launch", "high", ""),
        ("launch", "max", EFFORT_ABSOLUTE),
        ("0731", None, ""),
        ("0731", "low", ""),
        ("0731", "high", EFFORT_ABSOLUTE),
        ("0731", "max", EFFORT_BEYOND),
    ],
)
def test_effort_prefix_follows_bos_in_thinking_mode_only(
    profile: str, effort: str | None, prefix: str
) -> None:
    for messages, start in (([user("q")], ""), ([system("S"), user("q")], "S")):
        given: dict[str, Any] = {"profile_name": profile, "effort": effort}
        thinking = render(messages, **given)
        assert thinking.text == f"{BOS}{prefix}{start}{U}q{A}<think>"
        assert thinking.opens_thinking
        chat = render(messages, thinking=False, **given)
        assert chat.text == f"{BOS}{start}{U}q{A}</think>"
        assert not chat.opens_thinking


@pytest.mark.parametrize(
    ("profile", "effort", "hint"), [("launch", "low", "none, high, max"), ("0731", "none", "low")]
)
def test_effort_of_another_profile_is_refused(profile: str, effort: str, hint: str) -> None:
    with pytest.raises(EncodingError, match=effort) as caught:
        render([user("q")], profile_name=profile, effort=effort, thinking=False)
    assert hint in (caught.value.hint or "")


def test_unknown_profile_is_refused() -> None:
    with pytest.raises(EncodingError, match=r"'v4\.1'"):
        render([user("q")], profile_name="v4.1")


HISTORY = [user("a"), assistant("b", "why b"), user("c"), assistant("d", "why d")]


def test_old_reasoning_is_dropped_and_kept_on_request() -> None:
    old, last = f"{U}a{A}</think>b{EOS}", f"{U}c{A}<think>why d</think>d{EOS}"
    assert render(HISTORY).text == BOS + old + last
    kept = f"{U}a{A}<think>why b</think>b{EOS}"
    assert render(HISTORY, drop_thinking=False).text == BOS + kept + last
    chat = f"{U}a{A}</think>b{EOS}{U}c{A}</think>d{EOS}"
    assert render(HISTORY, thinking=False).text == BOS + chat


def test_declared_tools_keep_all_reasoning_even_empty() -> None:
    text = render([user("a"), assistant("b"), *HISTORY[2:]], tools=[tool("f")]).text
    assert text.endswith(
        f"{U}a{A}<think></think>b{EOS}{U}c{A}<think>why d</think>d{EOS}",
    )
    assert render(HISTORY, tools=[]).text == render(HISTORY).text


def test_reasoning_may_be_called_reasoning() -> None:
    reply = {"role": "assistant", "content": "d", "reasoning": "why d"}
    assert render([*HISTORY[:3], reply]).text == render(HISTORY).text


def test_old_developer_messages_are_dropped_with_old_thinking() -> None:
    developer = {"role": "developer", "content": "dev"}
    messages = [developer, assistant("x"), user("c")]
    assert render(messages).text == f"{BOS}x{EOS}{U}c{A}<think>"
    assert render(messages, thinking=False).text == (f"{BOS}{U}dev{A}</think>x{EOS}{U}c{A}</think>")
    assert render([user("c"), developer]).text == f"{BOS}{U}c{U}dev{A}<think>"


def test_tools_go_to_the_first_system_message() -> None:
    given = [user("q")]
    without = render(given, tools=[tool("f")]).text
    assert without == render([system(""), *given], tools=[tool("f")]).text
    assert without.startswith(f"{BOS}\n\n## Tools\n\n")
    later = render([user("q"), system("S")], tools=[tool("f")]).text
    assert later.startswith(f"{BOS}{U}qS\n\n## Tools\n\n")
    bare = [tool("f")["function"]]
    assert render(given, tools=bare).text == without
    on_message = [system("", tools=[tool("f")]), *given]
    assert render(on_message).text == without


def test_schema_block_follows_tools() -> None:
    schema = {"type": "object", "title": "é"}
    tail = RESPONSE_FORMAT_HEAD + '{"type": "object", "title": "é"}' + f"{U}q{A}<think>"
    assert render([user("q")], schema=schema).text == f"{BOS}\n\n{tail}"
    both = render([system("S"), user("q")], schema=schema, tools=[tool("f")]).text
    assert both.startswith(f"{BOS}S\n\n## Tools") and both.endswith(f"calls.\n\n\n{tail}")
    on_message = [system("", response_format=schema), user("q")]
    assert render(on_message).text == f"{BOS}\n\n{tail}"


def test_reminder_stands_without_end() -> None:
    reminder = {"role": "latest_reminder", "content": "now"}
    assert render([system("S"), reminder, user("q")]).text == (
        f"{BOS}S<｜latest_reminder｜>now{U}q{A}<think>"
    )


@pytest.mark.parametrize("thinking", [True, False])
def test_tasks(thinking: bool) -> None:
    think = "<think>" if thinking else "</think>"
    asked = render([user("q", task="action")], thinking=thinking)
    assert asked.text == f"{BOS}{U}q{A}{think}<｜action｜>"
    assert not asked.opens_thinking
    for task in ("query", "authority", "domain"):
        text = render([user("q", task=task)], thinking=thinking).text
        assert text == f"{BOS}{U}q{TASKS[task]}"
    answered = [user("q", task="action"), assistant("Search", "not shown")]
    assert render(answered, thinking=thinking).text == asked.text + f"Search{EOS}"
    titled = [user("q"), assistant("a", task="title")]
    start = f"{BOS}{U}q{A}" + ("<think></think>" if thinking else "</think>")
    assert render(titled, thinking=thinking).text == f"{start}a{EOS}<｜title｜>"


def test_read_url_marks_the_url() -> None:
    message = user("q", task="read_url", extracted_url="http://x/<｜title｜>")
    prompt = render([message])
    assert prompt.text == f"{BOS}{U}q<｜extracted_url｜>http://x/<｜title｜><｜read_url｜>"
    assert [span.text for span in prompt.spans if span.is_control] == [
        BOS,
        U,
        "<｜extracted_url｜>",
        "<｜read_url｜>",
    ]


def test_prefix_is_continued_in_chat_mode_unless_it_brings_reasoning() -> None:
    plain = [user("q"), assistant("The answer", prefix=True)]
    prompt = render(plain, profile_name="launch", effort="max")
    assert prompt.text == f"{BOS}{U}q{A}</think>The answer"
    assert not prompt.opens_thinking
    seeded = [user("q"), assistant("The answer", "because", prefix=True)]
    assert render(seeded).text == f"{BOS}{U}q{A}<think>because</think>The answer"


def test_wo_eos_leaves_a_message_open() -> None:
    messages = [user("q"), assistant("The", "r", wo_eos=True)]
    assert render(messages).text == f"{BOS}{U}q{A}<think>r</think>The"


def test_assistant_after_assistant_gets_no_header() -> None:
    messages = [user("q"), assistant("a", "r"), assistant("b", "s")]
    assert render(messages).text == (f"{BOS}{U}q{A}<think>r</think>a{EOS}s</think>b{EOS}")


def test_reply_is_what_history_adds_to_the_prompt() -> None:
    turn = assistant("d", "why d", tool_calls=CALLS)
    for thinking in (True, False):
        before = render(HISTORY[:3], thinking=thinking, tools=[tool("f")]).text
        after = render([*HISTORY[:3], turn], thinking=thinking, tools=[tool("f")]).text
        assert after == before + render_reply(turn, thinking=thinking).text
    assert after.endswith(f"d{CALLS_TEXT}{EOS}")


def test_a_reply_is_an_assistant_message() -> None:
    with pytest.raises(EncodingError, match="not user"):
        render_reply(user("q"), thinking=True)


def test_nothing_is_trimmed() -> None:
    messages = [system(" S\n"), user("\n q "), assistant(" a \n", "\nr ")]
    assert render(messages).text == f"{BOS} S\n{U}\n q {A}<think>\nr </think> a \n{EOS}"


def test_half_an_emoji_becomes_a_replacement_character() -> None:
    prompt = render([user("a\ud83d b \ud83d\ude00")])
    assert prompt.text == f"{BOS}{U}a\ufffd b 😀{A}<think>"


def test_rendering_does_not_change_its_input() -> None:
    messages = [system("S"), user("q"), assistant("a", "r", tool_calls=CALLS)]
    before = repr(messages)
    render(messages, tools=[tool("f")])
    assert repr(messages) == before


def test_only_the_official_roles_write_markers() -> None:
    text = render([system("S"), user("q")]).text
    assert re.findall("<｜.*?｜>", text) == [BOS, U, A]
