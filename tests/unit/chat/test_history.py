"""Prompts that go on from an answer hold it exactly as it was drawn."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from dsv4.chat.answer import Finish
from dsv4.chat.engine import Engine
from dsv4.chat.history import History, Turn
from dsv4.chat.request import Request
from dsv4.encoding.events import collect
from dsv4.encoding.messages import Message, ToolCall
from dsv4.engine.sampler import GREEDY

Build = Callable[..., Engine]

TOOL = {
    "name": "t",
    "parameters": {"properties": {"a": {"type": "object"}, "b": {"type": "string"}}},
}
ANSWER = (
    'I think.</think>Well.\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name="t">\n'
    '<｜DSML｜parameter name="a" string="false">{"x": 1.0, "y": []}</｜DSML｜parameter>\n'
    '<｜DSML｜parameter name="b" string="true">text</｜DSML｜parameter>\n'
    "</｜DSML｜invoke>\n</｜DSML｜tool_calls>"
)
ASKED: list[dict[str, Any]] = [{"role": "user", "content": "go"}]


def ask(
    engine: Engine, messages: list[dict[str, Any]], **options: Any
) -> tuple[tuple[int, ...], dict[str, Any]]:
    """(ids of the prompt, the answer as the client's next message)"""
    prepared = engine.prepare(Request(messages, sampling=GREEDY, **options))
    *events, finish = engine.answer(prepared)
    assert isinstance(finish, Finish)
    reply = collect(events, thinking=prepared.opens_thinking)  # type: ignore[arg-type]
    return prepared.ids, reply.message()


def prompt(engine: Engine, messages: list[dict[str, Any]], **options: Any) -> tuple[int, ...]:
    return engine.prepare(Request(messages, sampling=GREEDY, **options)).ids


@pytest.fixture
def called(scripted: Build) -> tuple[Engine, tuple[int, ...], dict[str, Any]]:
    """(engine, ids up to the EOS of its answer, the answer)"""
    engine = scripted(ANSWER)
    ids, message = ask(engine, ASKED, tools=[TOOL], user="u")
    tokenizer = engine.model.tokenizer
    written = prompt(engine, [*ASKED, message], tools=[TOOL], user="somebody else")
    assert tokenizer.decode(written).endswith(ANSWER + "<｜end▁of▁sentence｜>")
    return engine, written, message


def test_calls_have_ids_nobody_can_guess(called: Any) -> None:
    (call,) = called[2]["tool_calls"]
    assert call["id"].startswith("call_00_") and len(call["id"]) == 28


def test_reordered_arguments_and_dropped_reasoning(called: Any) -> None:
    engine, ids, message = called
    (call,) = message["tool_calls"]
    arguments = {"b": "text", "a": {"y": [], "x": 1}}
    for content in ("Well.", None, "Well. "):
        sent = {
            "role": "assistant",
            "content": content,
            "tool_calls": [
                {**call, "function": {"name": "t", "arguments": json.dumps(arguments, indent=1)}}
            ],
        }
        result = {"role": "tool", "tool_call_id": call["id"], "content": "done"}
        assert prompt(engine, [*ASKED, sent], tools=[TOOL], user="u") == ids
        longer = prompt(engine, [*ASKED, sent, result], tools=[TOOL], user="u")
        assert longer[: len(ids)] == ids


@pytest.mark.parametrize("changed", ["user", "id", "arguments", "content", "chat mode"])
def test_what_the_answer_was_not_is_written_anew(called: Any, changed: str) -> None:
    engine, ids, message = called
    sent = json.loads(json.dumps(message))
    del sent["reasoning_content"]
    call = sent["tool_calls"][0]
    options: dict[str, Any] = {"tools": [TOOL], "user": "u"}
    if changed == "user":
        options["user"] = "v"
    elif changed == "id":
        call["id"] = "call_00_guess"
    elif changed == "arguments":
        call["function"]["arguments"] = '{"b": "other"}'
    elif changed == "content":
        sent["content"] = "Something else."
    else:
        options["effort"] = "none"
    assert prompt(engine, [*ASKED, sent], **options) != ids
    tokenizer = engine.model.tokenizer
    assert "I think." not in tokenizer.decode(prompt(engine, [*ASKED, sent], **options))


def test_plain_turns_keep_their_ids() -> None:
    history = History()
    turn = Turn("u", b"digest", (7, 8, 9), None, "text", ())
    history.remember(turn)
    recall = history.recall("u")
    assert recall(Message("assistant", "text"), False, b"digest") == (7, 8, 9)
    assert recall(Message("assistant", "text"), True, b"digest") is None
    assert recall(Message("assistant", "text"), False, b"other") is None
    assert recall(Message("assistant", "other"), False, b"digest") is None
    assert history.recall("v")(Message("assistant", "text"), False, b"digest") is None


def test_a_talk_of_several_turns(scripted: Build) -> None:
    engine = scripted("fine")
    first, message = ask(engine, ASKED, effort="none")
    talk = [*ASKED, message, {"role": "user", "content": "and now?"}]
    second, again = ask(engine, talk, effort="none")
    tokenizer = engine.model.tokenizer
    assert second[: len(first)] == first
    assert tokenizer.decode(second[len(first) :]).startswith("fine<｜end▁of▁sentence｜><｜User｜>")
    third = prompt(engine, [*talk, again, {"role": "user", "content": "!"}], effort="none")
    assert third[: len(second)] == second


def test_ids_that_were_drawn_in_another_way_stay(scripted: Build) -> None:
    """As if the model had written the answer in other tokens than the tokenizer would."""
    engine = scripted("x")
    prepared = engine.prepare(Request(ASKED, effort="none"))
    strange = (5, 6, engine.model.tokenizer.eos_id)
    engine.history.remember(Turn("", prepared.digest, strange, None, "fine", ()))
    talk = [*ASKED, {"role": "assistant", "content": "fine"}, {"role": "user", "content": "?"}]
    ids = prompt(engine, talk, effort="none")
    assert ids[: len(prepared.ids) + 3] == (*prepared.ids, *strange)


def test_answers_that_were_cut_are_not_remembered(scripted: Build) -> None:
    engine = scripted("a long answer")
    for options in ({"max_tokens": 3}, {"stop": ("answer",)}):
        prepared = engine.prepare(Request(ASKED, effort="none", sampling=GREEDY, **options))
        *events, _ = engine.answer(prepared)
        content = collect(events, thinking=False).content  # type: ignore[arg-type]
        recall = engine.history.recall("")
        assert recall(Message("assistant", content), False, prepared.digest) is None


def test_the_oldest_answers_are_forgotten() -> None:
    history = History(most_ids=25)
    for i in range(4):
        calls = (ToolCall("t", "{}", f"id{i}"),)
        history.remember(Turn("", b"", range(10), None, "", calls))

    def known(i: int) -> bool:
        message = Message("assistant", tool_calls=(ToolCall("t", "{}", f"id{i}"),))
        return history.recall("")(message, False, b"") is not None

    assert [known(i) for i in range(4)] == [False, False, True, True]


def test_only_some_of_the_calls_of_an_answer() -> None:
    history = History()
    calls = tuple(ToolCall("t", "{}", f"id{i}") for i in range(2))
    history.remember(Turn("", b"", (1, 2), None, "", calls))
    recall = history.recall("")
    assert recall(Message("assistant", tool_calls=calls[::-1]), False, b"") == (1, 2)
    assert recall(Message("assistant", tool_calls=calls[:1]), False, b"") is None
    foreign = (*calls, ToolCall("t", "{}", "other"))
    assert recall(Message("assistant", tool_calls=foreign), False, b"") is None
