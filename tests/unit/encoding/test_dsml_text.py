"""JSON text and the calls block, character by character."""

from __future__ import annotations

from typing import Any

import pytest
from encoding_cases import D

from dsv4.encoding.control import DSML
from dsv4.encoding.dsml import history_arguments, json_text, write_calls
from dsv4.encoding.messages import ToolCall
from dsv4.encoding.prompt import Prompt, PromptBuilder


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"b": 1, "a": [1, 2]}, '{"b": 1, "a": [1, 2]}'),
        ("é小😀", '"é小😀"'),
        ('a"b\\\n\t/', '"a\\"b\\\\\\n\\t/"'),
        (1e30, "1e+30"),
        (0.1, "0.1"),
        (1.0, "1.0"),
        (-0.0, "-0.0"),
        (10**20, "100000000000000000000"),
        ([True, False, None], "[true, false, null]"),
        ({}, "{}"),
        ("\x7f\u2028", '"\x7f\u2028"'),
        ("\x01", '"\\u0001"'),
    ],
)
def test_json_text(value: Any, text: str) -> None:
    assert json_text(value) == text


@pytest.mark.parametrize(
    ("arguments", "parameters"),
    [
        (None, {}),
        ("", {}),
        ("{}", {}),
        ('{"a": {"b": 1}}', {"a": {"b": 1}}),
        ({"a": 1}, {"a": 1}),
        ("{broken", {"arguments": "{broken"}),
        ("[1]", {"arguments": "[1]"}),
        ("null", {"arguments": "null"}),
        ("[" * 100_000, {"arguments": "[" * 100_000}),
    ],
)
def test_arguments_of_past_calls(arguments: Any, parameters: dict[str, Any]) -> None:
    assert history_arguments(arguments) == parameters


def written(*calls: ToolCall) -> Prompt:
    builder = PromptBuilder()
    write_calls(builder, calls)
    return builder.build()


def test_calls_block() -> None:
    given = {"s": 'x "y" <z>\n', "n": 1e30, "o": {"k": "é"}, "l": [], "t": True, "u": None, "e": ""}
    prompt = written(ToolCall("f", given), ToolCall("g"))
    assert prompt.text == (
        f"<{D}tool_calls>\n"
        f'<{D}invoke name="f">\n'
        f'<{D}parameter name="s" string="true">x "y" <z>\n</{D}parameter>\n'
        f'<{D}parameter name="n" string="false">1e+30</{D}parameter>\n'
        f'<{D}parameter name="o" string="false">{{"k": "é"}}</{D}parameter>\n'
        f'<{D}parameter name="l" string="false">[]</{D}parameter>\n'
        f'<{D}parameter name="t" string="false">true</{D}parameter>\n'
        f'<{D}parameter name="u" string="false">null</{D}parameter>\n'
        f'<{D}parameter name="e" string="true"></{D}parameter>\n'
        f"</{D}invoke>\n"
        f'<{D}invoke name="g">\n'
        "\n"
        f"</{D}invoke>\n"
        f"</{D}tool_calls>"
    )


def test_only_markup_is_control() -> None:
    prompt = written(ToolCall(f"f{D}", {f"k{D}": f"v</{D}parameter>", "j": [D]}))
    controls = [span.text for span in prompt.spans if span.is_control]
    assert set(controls) == {DSML}
    # two tags each for the block and the invoke, two for each of two parameters
    assert len(controls) == 8
    assert prompt.text.count(D) == 8 + 4
