"""Every kind of malformed output that V4 models have been seen to write."""

from __future__ import annotations

from typing import Any

import pytest
from encoding_cases import D, block, invoke, parameter, stream, tool

from dsv4.encoding.events import Event, Reply, collect
from dsv4.encoding.messages import ToolCall

EOS = "<｜end▁of▁sentence｜>"
F = tool("f", a="string", n="integer", x="number", b="boolean", o="object", l="array")
TOOLS = [F, tool("g")]
CALL = invoke("f", parameter("a", "1"))
MADE = (ToolCall("f", '{"a": "1"}'),)


def read(text: str, **options: Any) -> tuple[Reply, dict[str, int]]:
    """Reply and counts, the same for whole text and for single characters."""
    thinking = options.setdefault("thinking", False)
    options.setdefault("tools", TOOLS)
    events, malformed = stream([text], **options)
    again: tuple[list[Event], Any] = stream(text, **options)
    assert again == (events, malformed)
    return collect(events, thinking=thinking), dict(malformed)


@pytest.mark.parametrize("closer", ["", "</think>", "\n</think>\n"])
@pytest.mark.parametrize("end", ["", EOS])
def test_block_inside_open_think(closer: str, end: str) -> None:
    """`</think>` missing or late: reasoning ends at the opener."""
    reply, malformed = read(f"why{block(CALL)}{closer}{end}", thinking=True)
    assert reply == Reply("why", "", MADE)
    expected = {"block_in_reasoning": 1}
    if closer:
        expected["stray_closer"] = 1
    assert malformed == expected


@pytest.mark.parametrize("place", ["between", "inside"])
def test_late_think_closer_within_the_block(place: str) -> None:
    late = f"{CALL}\n</think>" if place == "between" else CALL.replace("\n<", "</think>\n<", 1)
    reply, malformed = read("why" + block(late), thinking=True)
    assert reply == Reply("why", "", MADE)
    assert malformed == {"block_in_reasoning": 1, "stray_closer": 1}


def test_reasoning_about_markup_is_no_call() -> None:
    """An opener or an example that no declared invoke follows stays reasoning."""
    for text in (
        f"I write <{D}tool_calls> first",
        f"<{D}tool_calls>\n" + invoke("$TOOL_NAME", "..."),
        f"then <{D}invoke is next",
        f"<{D}tool_calls></think>",
        f"<{D}tool_calls>\n" + invoke("$TOOL_NAME")[:-5] + "</think>",
        f'a bare <{D}invoke name="f"> without end</think>',
    ):
        ended = text if text.endswith("</think>") else text + "</think>"
        reply, malformed = read(ended + "done", thinking=True)
        assert reply == Reply(ended.removesuffix("</think>"), "done")
        assert malformed and "block_in_reasoning" not in malformed


@pytest.mark.parametrize("wrapper", ["toolcalls", "toolcall", "function_calls"])
def test_misspelt_opener(wrapper: str) -> None:
    text = block(CALL, wrapper=wrapper)
    assert read("so" + text) == (Reply(None, "so", MADE), {"misspelt_opener": 1})
    undeclared = block(invoke("h"), wrapper=wrapper)
    assert read("so" + undeclared)[0] == Reply(None, "so" + undeclared)
    unknown = read("so" + text, tools=None)[0]
    assert unknown == Reply(None, "so" + text)
    closed_otherwise = text.replace(f"</{D}{wrapper}>", f"</{D}tool_calls>")
    assert read("so" + closed_otherwise)[0] == Reply(None, "so", MADE)


def test_unknown_opener_is_text() -> None:
    text = f"so\n\n<{D}calls>\nx"
    assert read(text) == (Reply(None, text), {"stray_markup": 1})


def test_bare_invoke_is_text_unless_asked_for() -> None:
    text = f"so\n\n{CALL}\n{CALL}"
    assert read(text) == (Reply(None, text), {"bare_invoke": 2})
    reply, malformed = read(text, bare_invokes=True)
    assert reply == Reply(None, "so", MADE * 2)
    assert malformed["bare_invoke"] == 1
    undeclared = "so\n\n" + invoke("h", parameter("a", "1"))
    assert read(undeclared, bare_invokes=True)[0] == Reply(None, undeclared)
    assert read(text, bare_invokes=True, tools=None)[0] == Reply(None, text)
    incomplete = "so\n\n" + CALL[:-4]
    assert read(incomplete, bare_invokes=True)[0] == Reply(None, incomplete)
    cut, malformed = read(incomplete, bare_invokes=True, truncated=True)
    assert (cut, malformed) == (Reply(None, "so"), {"unclosed_block": 1})


@pytest.mark.parametrize(
    ("key", "value", "arguments"),
    [
        ("n", "5 apples", '{"n": "5 apples"}'),
        ("n", "+5", '{"n": 5}'),
        ("x", "5.", '{"x": 5.0}'),
        ("x", "five", '{"x": "five"}'),
        ("x", "nan", '{"x": "nan"}'),
        ("x", "1e999", '{"x": "1e999"}'),
        ("b", "True", '{"b": true}'),
        ("b", "yes", '{"b": "yes"}'),
        ("a", "it's", '{"a": "it\'s"}'),
        ("o", "{'k': 1}", '{"o": "{\'k\': 1}"}'),
        ("o", "NaN", '{"o": "NaN"}'),
        ("o", "[" * 100_000, '{"o": "' + "[" * 100_000 + '"}'),
        ("unknown", "{", '{"unknown": "{"}'),
    ],
)
def test_invalid_json_is_repaired_by_type_or_passed_as_string(
    key: str, value: str, arguments: str
) -> None:
    text = block(invoke("f", parameter(key, value, ' string="false"')))
    events, malformed = stream([text], tools=TOOLS)
    assert collect(events, thinking=False).tool_calls == (ToolCall("f", arguments),)
    assert malformed == {"invalid_json": 1}


@pytest.mark.parametrize(
    ("key", "value", "arguments"),
    [
        ("a", "5", '{"a": "5"}'),
        ("n", "5", '{"n": 5}'),
        ("n", "5.5", '{"n": "5.5"}'),
        ("x", "5", '{"x": 5}'),
        ("b", "false", '{"b": false}'),
        ("o", '{"k":1}', '{"o": {"k": 1}}'),
        ("o", "[1]", '{"o": "[1]"}'),
        ("l", "[1]", '{"l": [1]}'),
        ("l", '"x"', '{"l": "\\"x\\""}'),
        ("unknown", "5", '{"unknown": "5"}'),
    ],
)
@pytest.mark.parametrize("attribute", ["", ' string="maybe"'])
def test_missing_string_attribute(key: str, value: str, arguments: str, attribute: str) -> None:
    reply, malformed = read(block(invoke("f", parameter(key, value, attribute))))
    assert reply.tool_calls == (ToolCall("f", arguments),)
    assert malformed == {"missing_string_attribute": 1}


def test_types_of_unions_and_enums() -> None:
    schema = {
        "properties": {
            "u": {"anyOf": [{"type": "string"}, {"type": "integer"}]},
            "v": {"type": ["integer", "null"]},
            "e": {"enum": ["1", "2"]},
        }
    }
    given = invoke("t", *(parameter(k, v, "") for k, v in (("u", "1"), ("v", "None"), ("e", "1"))))
    reply, _ = read(block(given), tools=[{"name": "t", "parameters": schema}])
    assert reply.tool_calls == (ToolCall("t", '{"u": 1, "v": null, "e": "1"}'),)


@pytest.mark.parametrize("key", ["arguments", "input"])
@pytest.mark.parametrize("attribute", [' string="true"', ' string="false"', ""])
def test_single_wrapper_parameter_is_unwrapped_if_it_fits(key: str, attribute: str) -> None:
    def call(value: str, *more: str) -> tuple[Reply, dict[str, int]]:
        return read(block(invoke("f", parameter(key, value, attribute), *more)))

    reply, malformed = call('{"a":"x", "n": 1}')
    assert reply.tool_calls == (ToolCall("f", '{"a": "x", "n": 1}'),)
    assert malformed == {"wrapped_arguments": 1}
    for misfit in ('{"z": 1}', '{"n": "one"}', "[1]", "text"):
        (made,) = call(misfit)[0].tool_calls
        assert str(made.arguments).startswith(f'{{"{key}": ')
    later = parameter(key, '{"a": "x"}', attribute)
    number = parameter("n", "1", ' string="false"')
    (made,) = read(block(invoke("f", number, later)))[0].tool_calls
    assert str(made.arguments).startswith(f'{{"n": 1, "{key}": ')
    (both,) = call('{"a":"x"}', parameter("n", "1", ' string="false"'))[0].tool_calls
    assert str(both.arguments).startswith(f'{{"{key}": ')
    assert str(both.arguments).endswith(', "n": 1}')


def test_wrapper_parameter_of_the_schema_is_an_ordinary_one() -> None:
    tools = [tool("f", input="string")]
    reply, malformed = read(block(invoke("f", parameter("input", '{"a": 1}'))), tools=tools)
    assert reply.tool_calls == (ToolCall("f", '{"input": "{\\"a\\": 1}"}'),)
    assert not malformed


def test_wrapper_needs_every_required_key() -> None:
    schema = {"properties": {"a": {}, "b": {}}, "required": ["b"]}
    tools = [{"name": "f", "parameters": schema}]
    for inner, unwrapped in (('{"a": 1}', False), ('{"b": 1}', True)):
        _, malformed = read(block(invoke("f", parameter("input", inner))), tools=tools)
        assert malformed == ({"wrapped_arguments": 1} if unwrapped else {})


@pytest.mark.parametrize("name", ["h", "", "f g", "f<", "x" * 200, "f\n"])
def test_invalid_name_is_shown_verbatim(name: str) -> None:
    text = block(invoke(name, parameter("a", "1")))
    for tools in (TOOLS, []):
        reply, malformed = read(f"so{text}{EOS}", tools=tools)
        assert reply == Reply(None, "so" + text)
        assert malformed == {"invalid_name": 1}


def test_names_are_checked_by_form_if_no_tools_are_known() -> None:
    assert read(block(invoke("any-name_1")), tools=None)[0].tool_calls == (
        ToolCall("any-name_1", "{}"),
    )
    text = block(invoke("any.name"))
    assert read(text, tools=None)[0] == Reply(None, text)


def test_valid_call_beside_an_invalid_one() -> None:
    bad = invoke("h", parameter("a", "1"))
    reply, malformed = read(block(CALL, bad, invoke("g")))
    assert reply == Reply(None, bad, (*MADE, ToolCall("g", "{}")))
    assert malformed == {"invalid_name": 1}
    reply, malformed = read(block(bad, CALL))
    assert reply == Reply(None, f"\n\n<{D}tool_calls>\n{bad}", MADE)
    assert malformed == {"invalid_name": 1}


def test_invalid_invoke_cut_in_the_middle_is_not_shown() -> None:
    text = block(invoke("h", parameter("a", "1")))
    for at in range(text.index("invoke"), text.index(f"</{D}invoke>") + 4):
        reply, malformed = read("so" + text[:at], truncated=True)
        assert reply == Reply(None, "so")
        assert malformed == {"unclosed_block": 1}


@pytest.mark.parametrize("calls", [(), (CALL,)])
def test_invalid_invoke_that_is_never_closed(calls: tuple[str, ...]) -> None:
    bad = f'<{D}invoke name="h">\nx'
    made = MADE * len(calls)
    reply, malformed = read("so" + block(*calls, bad))
    shown = f"{bad}\n</{D}tool_calls>"
    if not calls:
        shown = f"so\n\n<{D}tool_calls>\n{shown}"
        assert reply == Reply(None, shown)
    else:
        assert reply == Reply(None, "so" + shown, made)
    assert malformed == {"invalid_name": 1}
    ended = "so" + block(*calls, bad).removesuffix(f"</{D}tool_calls>") + EOS
    reply, malformed = read(ended)
    assert reply == Reply(None, "so", made)
    assert malformed["unclosed_invoke"] == 1


def test_stray_closers_are_dropped_and_counted() -> None:
    closers = [f"</{D}{name}>" for name in ("tool_calls", "invoke", "parameter", "toolcall")]
    text = "a" + "b".join([*closers, "</think>"]) + "c"
    assert read(text) == (Reply(None, "abbbbc"), {"stray_closer": 5})
    inside = block(CALL + closers[2], closers[1], CALL)
    assert read(inside) == (Reply(None, "", MADE * 2), {"stray_closer": 2})


def test_text_around_calls_is_dropped_and_counted() -> None:
    assert read(f"so{block(CALL)}\nmore{EOS}") == (
        Reply(None, "so", MADE),
        {"text_after_answer": 1},
    )
    assert read(block(CALL) + f"\n{EOS}") == (Reply(None, "", MADE), {})
    between = block(CALL, "some < words", CALL)
    assert read(between) == (Reply(None, "", MADE * 2), {"stray_text": 1})
    within = block(invoke("f", "words", parameter("a", "1"), "more"))
    assert read(within) == (Reply(None, "", MADE), {"stray_text": 2})
    second = block(CALL) + block(CALL)
    assert read(second) == (Reply(None, "", MADE), {"text_after_answer": 1})


def test_duplicate_parameter_is_dropped() -> None:
    text = block(invoke("f", parameter("a", "1"), parameter("a", "2")))
    assert read(text) == (Reply(None, "", MADE), {"duplicate_parameter": 1})


def test_missing_closers() -> None:
    opened = f'<{D}parameter name="a" string="true">1'
    head = f'<{D}invoke name="f">\n'
    unclosed_value = f"{head}{opened}</{D}invoke>"
    assert read(block(unclosed_value)) == (Reply(None, "", MADE), {"unclosed_parameter": 1})
    unclosed_invoke = head + parameter("a", "1")
    for text in (block(unclosed_invoke), block(unclosed_invoke, unclosed_invoke)):
        reply, malformed = read(text)
        assert set(reply.tool_calls) == set(MADE)
        assert malformed == {"unclosed_invoke": len(reply.tool_calls)}
    wrapper = f"</{D}tool_calls>"
    for end in (EOS, ""):
        assert read(block(CALL).removesuffix(wrapper) + end) == (
            Reply(None, "", MADE),
            {"unclosed_block": 1},
        )


def test_bad_parameter_heads() -> None:
    for head in (f"<{D}parameter name=a>", f"<{D}parameter >", f'<{D}parameter nom="a">'):
        text = block(invoke("f", f"{head}x</{D}parameter>", parameter("a", "1")))
        reply, malformed = read(text)
        assert reply == Reply(None, "", MADE)
        assert malformed["bad_parameter"] == 1
    swapped = f'<{D}parameter string="true" name="a">1</{D}parameter>'
    assert read(block(invoke("f", swapped))) == (Reply(None, "", MADE), {})
    long = invoke("f", parameter("k" * 5000, "1"), parameter("a", "1"))
    reply, malformed = read(block(long))
    assert reply == Reply(None, "", MADE)
    assert malformed["bad_parameter"] == 1


def test_empty_block() -> None:
    text = f"so\n\n<{D}tool_calls>\n</{D}tool_calls>{EOS}"
    assert read(text) == (Reply(None, "so"), {"empty_block": 1})


def test_markup_in_a_value_is_part_of_it() -> None:
    value = f"a <{D}foo> {D} <｜User｜> </think> b"
    assert read(block(invoke("f", parameter("a", value)))) == (
        Reply(None, "", (ToolCall("f", f'{{"a": "{value}"}}'),)),
        {},
    )


def test_end_inside_a_call() -> None:
    for cut in (CALL[: CALL.index("1")], CALL[: CALL.index("1") + 1], CALL[:-20], CALL[:-16]):
        for end in (EOS, ""):
            reply, malformed = read(f"so\n\n<{D}tool_calls>\n{cut}{end}")
            assert reply == Reply(None, "so")
            assert malformed == {"unclosed_invoke": 1}
