"""Plain completions, text with a hole, and answers that a prefix begins."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from dsv4.chat.answer import Finish, Logprobs
from dsv4.chat.engine import Engine
from dsv4.chat.request import Completion, Request, Schema
from dsv4.encoding.events import ContentDelta, ReasoningDelta, merge
from dsv4.engine.sampler import GREEDY
from dsv4.errors import RequestError, UsageError

Build = Callable[..., Engine]


def text_of(engine: Engine, prompt: str, **options: Any) -> tuple[str, Finish]:
    completion = Completion(prompt, sampling=GREEDY, **options)
    *events, finish = engine.answer(engine.prepare_completion(completion))
    assert isinstance(finish, Finish)
    assert all(isinstance(event, (ContentDelta, Logprobs)) for event in events)
    return "".join(e.text for e in events if isinstance(e, ContentDelta)), finish


def test_a_hole_is_filled(scripted: Build) -> None:
    engine = scripted("middle")
    prepared = engine.prepare_completion(Completion("before", suffix="after"))
    assert engine.model.tokenizer.decode(prepared.ids) == (
        "<｜begin▁of▁sentence｜><｜fim▁begin｜>before<｜fim▁hole｜>after<｜fim▁end｜>"
    )
    assert text_of(engine, "before", suffix="after")[0] == "middle"


def test_echo_stop_and_limit(scripted: Build) -> None:
    engine = scripted("one two three")
    assert text_of(engine, "zero ", echo=True)[0] == "zero one two three"
    text, finish = text_of(engine, "two ", echo=True, stop=("two",))
    assert (text, finish.reason, finish.stop) == ("two one ", "stop", "two")
    text, finish = text_of(engine, "x", max_tokens=3)
    assert (text, finish.reason, finish.usage.completion) == ("one", "length", 3)


def test_markup_and_control_tokens_are_text(scripted: Build) -> None:
    text, _ = text_of(scripted("a</think>\n\n<｜DSML｜tool_calls>"), "x")
    assert text == "a</think>\n\n<｜DSML｜tool_calls>"


def test_log_probabilities(scripted: Build) -> None:
    engine = scripted("ab")
    prepared = engine.prepare_completion(Completion("x", sampling=GREEDY, logprobs=2))
    events = list(engine.answer(prepared))
    kinds = [type(event) for event in events]
    assert kinds == [Logprobs, ContentDelta, Logprobs, ContentDelta, Finish]


def test_a_prompt_that_is_too_long(scripted: Build) -> None:
    with pytest.raises(RequestError, match="the prompt has 5001") as caught:
        text_of(scripted("x"), "a" * 5000)
    assert (caught.value.param, caught.value.code) == ("prompt", "context_length_exceeded")


def test_bad_numbers() -> None:
    for wrong in ({"max_tokens": 0}, {"logprobs": 21}, {"logprobs": -1}):
        with pytest.raises(UsageError):
            Completion("x", **wrong)


def test_a_prefix_is_continued(scripted: Build) -> None:
    engine = scripted("world")
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": "say it"},
        {"role": "assistant", "content": "hello ", "prefix": True},
    ]
    prepared = engine.prepare(Request(messages, sampling=GREEDY))
    text = engine.model.tokenizer.decode(prepared.ids)
    assert text.endswith("<｜Assistant｜></think>hello ")
    assert merge(list(engine.answer(prepared))[:-1]) == [ContentDelta("world")]  # type: ignore[arg-type]
    messages[-1]["reasoning_content"] = "Politely."
    prepared = engine.prepare(Request(messages, sampling=GREEDY))
    text = engine.model.tokenizer.decode(prepared.ids)
    assert text.endswith("<think>Politely.</think>hello ")
    assert not prepared.opens_thinking


def test_a_described_schema_is_in_the_prompt(scripted: Build) -> None:
    engine = scripted("{}")
    schema = {"type": "object", "properties": {"unusual": {"type": "string"}}}
    for described in (True, False):
        request = Request(
            [{"role": "user", "content": "?"}], format=Schema(schema, described=described)
        )
        text = engine.model.tokenizer.decode(engine.prepare(request).ids)
        assert ("## Response Format" in text and "unusual" in text) == described


def test_reasoning_and_content_have_log_probabilities_and_calls_do_not(scripted: Build) -> None:
    call = (
        '\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name="t">\n\n</｜DSML｜invoke>\n'
        "</｜DSML｜tool_calls>"
    )
    engine = scripted("hm</think>é\n\n!" + call)
    request = Request(
        [{"role": "user", "content": "?"}], [{"name": "t"}], sampling=GREEDY, logprobs=1
    )
    events = list(engine.answer(engine.prepare(request)))
    likely = [event for event in events if isinstance(event, Logprobs)]
    assert [entry.reasoning for entry in likely] == [True, True] + [False] * 5
    assert b"".join(entry.token.bytes for entry in likely) == "hmé\n\n!".encode()
    assert all(len(entry.top) == 1 and entry.top[0] == entry.token for entry in likely)
    assert isinstance(events[0], Logprobs) and events[1] == ReasoningDelta("h")
    sure = [entry.token.logprob for entry in likely]
    assert sure == [0.0] * len(sure)
