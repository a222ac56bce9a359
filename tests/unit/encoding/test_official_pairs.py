"""The released encoding, byte for byte."""

from __future__ import annotations

import itertools
import json

import pytest
from encoding_cases import DATA, official

from dsv4.encoding import template
from dsv4.encoding.chat import render
from dsv4.encoding.control import (
    ASSISTANT,
    BOS,
    DSML,
    EOS,
    LATEST_REMINDER,
    RELEASED_IDS,
    TASKS,
    THINK_CLOSE,
    THINK_OPEN,
    USER,
)
from dsv4.encoding.prompt import Span


@pytest.mark.parametrize(("number", "thinking"), [(1, True), (2, True), (3, True), (4, False)])
def test_official_pair_matches_byte_for_byte(number: int, thinking: bool) -> None:
    messages, tools, expected = official(number)
    assert render(messages, tools=tools, thinking=thinking).text == expected


def test_tokens_of_an_official_pair_are_marked_as_such() -> None:
    """Everything in the first pair's prompt that looks like a token was written by the template
    (also in the tools head), so each must be a control span, and nothing else."""
    messages, tools, expected = official(1)
    spans = render(messages, tools=tools).spans
    for token in RELEASED_IDS:
        assert spans.count(Span(token, True)) == expected.count(token)
    assert all(span.text in RELEASED_IDS for span in spans if span.is_control)


def test_neighbouring_text_is_one_span() -> None:
    messages, tools, _ = official(1)
    flags = [span.is_control for span in render(messages, tools=tools).spans]
    assert all(a or b for a, b in itertools.pairwise(flags))


def test_constants() -> None:
    constants = json.loads((DATA / "prompt_constants.json").read_text(encoding="utf-8"))
    assert constants["tools_block_head"] == template.TOOLS_HEAD
    assert constants["tools_block_tail"] == template.TOOLS_TAIL
    assert constants["response_format_prefix"] == "\n\n" + template.RESPONSE_FORMAT_HEAD
    for profile, efforts in (("launch", "effort_prefix_launch"), ("0731", "effort_prefix_0731")):
        for effort, prefix in constants[efforts].items():
            effort = None if effort == "null" else effort
            assert template.profile(profile).effort_prefix(effort) == prefix
    assert constants["tasks"] == dict(TASKS)
    tokens = (BOS, EOS, USER, ASSISTANT, LATEST_REMINDER, THINK_OPEN, THINK_CLOSE, DSML)
    names = "bos eos user assistant latest_reminder think_open think_close dsml"
    assert tuple(constants[name] for name in names.split()) == tokens
