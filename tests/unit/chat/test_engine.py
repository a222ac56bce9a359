"""From messages to events, with a model that says what the test wants."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import pytest
import torch

import dsv4
from dsv4.chat.answer import Finish
from dsv4.chat.engine import Engine
from dsv4.chat.request import LEVELS, Request
from dsv4.checkpoint import synth
from dsv4.config import load
from dsv4.encoding.events import (
    ContentDelta,
    Event,
    ReasoningDelta,
    ToolCallEnd,
    ToolCallStart,
    merge,
)
from dsv4.engine.sampler import GREEDY, Draw, Sampler
from dsv4.errors import EncodingError, RequestError, UsageError

HELLO = [{"role": "user", "content": "hello"}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
CALL = (
    '\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name="weather">\n'
    '<｜DSML｜parameter name="city" string="true">Paris</｜DSML｜parameter>\n'
    "</｜DSML｜invoke>\n</｜DSML｜tool_calls>"
)

Build = Callable[..., Engine]


def run(engine: Engine, **options: Any) -> tuple[list[Event], Finish]:
    """(merged events, finish) of one answer with the given Request fields."""
    fields: dict[str, Any] = {"messages": HELLO, "sampling": GREEDY, "effort": "none"} | options
    *events, finish = engine.answer(engine.prepare(Request(**fields)))
    assert isinstance(finish, Finish)
    return merge([event for event in events if not isinstance(event, Finish)]), finish


def test_plain_answer(scripted: Build) -> None:
    events, finish = run(scripted("Grüße, 世界"))
    assert events == [ContentDelta("Grüße, 世界")]
    assert finish.reason == "stop"
    assert finish.usage.completion == len("Grüße, 世界".encode())
    assert finish.usage.reasoning == 0


def test_prompt_is_the_v4_template(scripted: Build) -> None:
    engine = scripted("x")
    prepared = engine.prepare(Request(HELLO, effort="none"))
    text = engine.model.tokenizer.decode(prepared.ids)
    assert text == "<｜begin▁of▁sentence｜><｜User｜>hello<｜Assistant｜></think>"
    assert not prepared.opens_thinking


def test_thinking_is_told_from_content_and_counted(scripted: Build) -> None:
    events, finish = run(scripted("let me see</think>42"), effort="high")
    assert events == [ReasoningDelta("let me see"), ContentDelta("42")]
    assert finish.usage.reasoning == len("let me see") + 1  # </think> belongs to it


def test_tool_call(scripted: Build) -> None:
    events, finish = run(scripted("I will look." + CALL), tools=[WEATHER])
    assert events[:2] == [ContentDelta("I will look."), ToolCallStart(0, "weather", ANY)]
    assert events[-1] == ToolCallEnd(0, '{"city": "Paris"}', complete=True)
    assert finish.reason == "tool_calls"


def test_without_tools_a_call_is_no_call(scripted: Build) -> None:
    events, finish = run(scripted("Hm." + CALL))
    assert not any(isinstance(event, ToolCallStart) for event in events)
    assert finish.reason == "stop"


@pytest.mark.parametrize(
    ("stop", "expected"),
    [
        (("World",), "Hello "),
        (("lo", "Hel"), ""),
        (("o W", "World"), "Hell"),
        (("Worlds",), "Hello World"),
        (("d",), "Hello Worl"),
    ],
)
def test_stop_strings(scripted: Build, stop: Sequence[str], expected: str) -> None:
    events, finish = run(scripted("Hello World"), stop=tuple(stop))
    assert "".join(e.text for e in events if isinstance(e, ContentDelta)) == expected
    assert finish.reason == "stop"


def test_stop_strings_do_not_look_into_reasoning(scripted: Build) -> None:
    events, _ = run(scripted("one two</think>three"), effort="high", stop=("two",))
    assert events == [ReasoningDelta("one two"), ContentDelta("three")]


def test_text_held_for_a_stop_string_comes_before_a_call(scripted: Build) -> None:
    events, _ = run(scripted("Let me" + CALL), tools=[WEATHER], stop=("me now",))
    assert events[:2] == [ContentDelta("Let me"), ToolCallStart(0, "weather", ANY)]


def test_token_limit(scripted: Build) -> None:
    events, finish = run(scripted("abcdefgh"), max_tokens=3)
    assert events == [ContentDelta("abc")]
    assert (finish.reason, finish.usage.completion) == ("length", 3)


def test_a_call_cut_by_the_limit_is_not_complete(scripted: Build) -> None:
    events, finish = run(scripted(CALL), tools=[WEATHER], max_tokens=100)
    ends = [event for event in events if isinstance(event, ToolCallEnd)]
    assert [end.complete for end in ends] == [False]
    assert finish.reason == "length"


def test_cut_in_the_middle_of_a_character_shows_the_rest_as_unknown(scripted: Build) -> None:
    events, _ = run(scripted("a世"), max_tokens=2)
    assert events == [ContentDelta("a\ufffd")]


def test_cancel(scripted: Build) -> None:
    engine = scripted("abcdefgh")
    seen: list[Event | Finish] = []
    prepared = engine.prepare(Request(HELLO, effort="none", sampling=GREEDY))
    for event in engine.answer(prepared, cancelled=lambda: len(seen) >= 2):
        seen.append(event)
    assert seen[:2] == [ContentDelta("a"), ContentDelta("b")]
    assert isinstance(seen[-1], Finish) and seen[-1].reason == "cancelled"


def test_opening_the_next_turn_ends_the_answer(scripted: Build) -> None:
    events, finish = run(scripted("done<｜User｜>and now?"))
    assert events == [ContentDelta("done")]
    assert finish.reason == "stop"


def test_prompt_longer_than_the_context(scripted: Build) -> None:
    with pytest.raises(RequestError, match=r"4096 tokens; the messages have \d+") as caught:
        run(scripted("x"), messages=[{"role": "user", "content": "a" * 5000}])
    assert caught.value.code == "context_length_exceeded"


def test_bad_conversations_fail_before_anything_runs(scripted: Build) -> None:
    with pytest.raises(EncodingError, match="unknown role"):
        scripted("x").prepare(Request([{"role": "nobody", "content": "?"}]))


def test_a_limit_of_nothing_is_no_default(scripted: Build) -> None:
    engine = scripted("x")
    with pytest.raises(UsageError, match="max_tokens = 0"):
        engine.chat(HELLO, max_tokens=0)
    with pytest.raises(UsageError, match="max_tokens = 0"):
        next(engine.complete("x", max_tokens=0))
    with pytest.raises(UsageError, match="effort ''"):
        engine.chat(HELLO, thinking="")


def test_bad_requests() -> None:
    with pytest.raises(UsageError, match="effort"):
        Request(HELLO, effort="enormous")
    with pytest.raises(UsageError, match="max_tokens"):
        Request(HELLO, max_tokens=0)


@pytest.mark.parametrize("effort", LEVELS)
@pytest.mark.parametrize("profile", ["launch", "0731"])
def test_every_level_has_a_meaning_in_every_profile(effort: str, profile: str) -> None:
    from dsv4.encoding.chat import render

    request = Request(HELLO, effort=effort)
    prompt = render(
        HELLO, profile_name=profile, thinking=request.thinking, effort=request.level(profile)
    )
    assert prompt.opens_thinking == (effort != "none")


@pytest.fixture
def resized(tiny_folder: Path, tmp_path: Path) -> Callable[[int], Path]:
    """resized(n) -> a random model with n more ids than its vocabulary has."""

    def build(more: int) -> Path:
        config = load(tiny_folder)
        folder = tmp_path / "model"
        synth(dataclasses.replace(config, vocab_size=config.vocab_size + more), folder, 0)
        shutil.copy(tiny_folder / "tokenizer.json", folder)
        return folder

    return build


def test_an_unused_id_of_the_model_adds_no_text(
    resized: Callable[[int], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = dsv4.load(resized(8))
    drawn = iter([*model.tokenizer.encode("a"), model.config.vocab_size - 1, 1])

    def draw(self: Sampler, logits_V: torch.Tensor, allowed_V: object) -> Draw:
        return Draw(next(drawn), logits_V, None)

    monkeypatch.setattr(Sampler, "draw", draw)
    events, finish = run(dsv4.Engine(model))
    assert events == [ContentDelta("a")]
    assert finish.usage.completion == 2


def test_a_vocabulary_larger_than_the_model_is_refused(resized: Callable[[int], Path]) -> None:
    model = dsv4.load(resized(-8))
    with pytest.raises(EncodingError, match=r"tokenizer has \d+ tokens, the model \d+"):
        dsv4.Engine(model)


def test_defaults_of_the_folder_are_used(tiny_folder: Path) -> None:
    engine = dsv4.Engine(dsv4.load(tiny_folder))
    *_, finish = engine.chat(HELLO)
    assert isinstance(finish, Finish)
    assert finish.usage.completion <= 16


@pytest.mark.parametrize("ids", [[2**70], ["a"], [], [-1]])
def test_ids_that_have_no_logits(tiny_folder: Path, ids: list[Any]) -> None:
    with pytest.raises(UsageError):
        dsv4.load(tiny_folder).logits(ids)


def test_same_seed_same_answer_from_a_real_model(tiny_folder: Path) -> None:
    engine = dsv4.Engine(dsv4.load(tiny_folder))
    defaults = engine.model.defaults
    first, second, other = (
        list(engine.chat(HELLO, sampling=defaults.sampling(seed))) for seed in (3, 3, 4)
    )
    assert first == second
    assert first != other


def test_completion_continues_plain_text(scripted: Build) -> None:
    engine = scripted("!<｜User｜>")
    *events, finish = engine.complete("<｜User｜> is only text here", sampling=GREEDY)
    assert events == [ContentDelta("!")]
    assert isinstance(finish, Finish)
    # BOS and one token per byte: the marker in the text did not become a control token.
    assert finish.usage.prompt == 1 + len("<｜User｜> is only text here".encode())
