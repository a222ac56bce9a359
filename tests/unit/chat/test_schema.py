"""Schemas and patterns that are legal and would take for ever."""

from __future__ import annotations

from typing import Any

import pytest

from dsv4.chat import schema
from dsv4.chat.pattern import MOST_READINGS, problem
from dsv4.chat.request import Pattern, Request
from dsv4.chat.rules import rules
from dsv4.chat.schema import MOST_FORMS, Choice, Json, Regex, Text, checked, forms
from dsv4.errors import RequestError

HELLO = [{"role": "user", "content": "hello"}]


def forms_of(parameter: Any, **root: Any) -> list[Any]:
    whole = checked({"properties": {"x": parameter}, **root}, "x", "tools")
    return forms(whole["properties"]["x"], whole)


def test_a_union_of_itself_is_followed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[object] = []
    resolved = schema.resolved

    def noted(part: object, root: Any) -> Any:
        calls.append(part)
        return resolved(part, root)

    monkeypatch.setattr(schema, "resolved", noted)
    again = {"$ref": "#/$defs/u"}
    assert forms_of(again, **{"$defs": {"u": {"anyOf": [again] * 12}}}) == schema._ANY
    both = {"u": {"anyOf": [*[again] * 12, {"type": "string"}, {"type": "integer"}]}}
    assert forms_of(again, **{"$defs": both}) == [Text(), Json('{"type": "integer"}')]
    assert len(calls) < 12


def test_unions_through_references_do_not_multiply() -> None:
    defs: dict[str, Any] = {
        f"u{i}": {"anyOf": [{"$ref": f"#/$defs/u{i + 1}"} for _ in range(40)]} for i in range(4)
    }
    defs["u4"] = {"type": "integer"}
    assert forms_of({"$ref": "#/$defs/u0"}, **{"$defs": defs}) == [Json('{"type": "integer"}')]


def test_a_union_of_texts_is_one_choice() -> None:
    names = [f"n{i}" for i in range(2 * MOST_FORMS)]
    assert forms_of({"anyOf": [{"const": n} for n in names]}) == [Choice(tuple(names))]


def test_too_many_forms_are_any_value() -> None:
    options = [{"type": "integer", "minimum": i} for i in range(MOST_FORMS + 1)]
    assert forms_of({"anyOf": options}) == schema._ANY
    assert len(forms_of({"anyOf": options[1:]})) == MOST_FORMS


@pytest.mark.parametrize(
    "pattern",
    [
        "(((a?){100}){100}){100}",
        "(((a{1,100}){1,100}){1,100})",
        "(.{1,16}){1,16}",
        "(?:.{1,16}){16}",
        "(?<name>.|..|...){1,128}",
        "(.+(.+)+)+",
        "(a*)*",
        "(a|)+",
        "((^)*)+",
        r"(\w*\s*){2}",
        "a{129}",
        "a{1,129}",
        "a" * 1025,
    ],
)
def test_patterns_whose_readings_multiply_are_refused(
    grammars: dict[str, Any], pattern: str
) -> None:
    assert problem(pattern) is not None
    with pytest.raises(RequestError, match="cannot hold answers to the pattern") as refused:
        rules(
            Request(HELLO, format=Pattern(pattern)), grammars["trained"], thinking=False, begun=""
        )
    assert refused.value.param == "response_format" and refused.value.status == 400
    # A tool goes on without it.
    assert not any(isinstance(f, Regex) for f in forms_of({"type": "string", "pattern": pattern}))


@pytest.mark.parametrize(
    "pattern",
    [
        "[a-z]{128}" * 20,
        "([0-9a-f]{4}-){100}",
        r"^[a-zA-Z0-9._%+-]+@([a-z0-9-]+\.)+[a-z]{2,}$",
        r"(0|[1-9]\d*)\.(0|[1-9]\d*)(?:-((?:0|[1-9]\d*|\d*[a-zA-Z-]\w*)"
        r"(?:\.(?:0|[1-9]\d*|\d*[a-zA-Z-]\w*))*))?",
        "(yes|no|maybe)( (yes|no|maybe)){0,20}",
        r"\(+[)({9}?*+]{3,9}(\)+|x)",
        "(.+)+",
        f"(.{{1,{MOST_READINGS // 8}}}){{1,8}}",
        "a+?b{2}?",
    ],
)
def test_ordinary_patterns_pass(pattern: str) -> None:
    assert problem(pattern) is None
