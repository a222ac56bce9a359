"""Answers drawn at random under a grammar are what was asked for, whatever was asked for."""

from __future__ import annotations

import json
from typing import Any

import jsonschema_rs
import pytest
from grammar_cases import constraint_of, draw, read
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from dsv4.chat.grammar import Grammars
from dsv4.chat.request import Named, Pattern, Schema
from dsv4.encoding.control import THINK_CLOSE
from dsv4.encoding.parse import parse
from dsv4.encoding.tokenizer import Tokenizer

NAMES = st.text("abcdefgh_-é ", min_size=1, max_size=6)
TEXTS = st.text(min_size=0, max_size=6).map(lambda text: text.encode("utf-8", "replace").decode())

SCALARS = st.one_of(
    st.sampled_from(
        [
            {"type": "string"},
            {"type": "integer"},
            {"type": "number"},
            {"type": "boolean"},
            {"type": "null"},
            {"type": ["string", "null"]},
            {"type": ["integer", "string", "boolean"]},
            {"type": "integer", "minimum": -3, "maximum": 40},
            {"type": "string", "minLength": 1, "maxLength": 4},
            {"type": "string", "pattern": "^[a-c]{2,5}$"},
            {"type": "string", "pattern": "[0-9]"},
            {"type": "string", "format": "uuid"},
            {"type": "string", "format": "date-time"},
            {"type": "string", "format": "ipv6"},
            {"type": "object"},
            {"type": "array"},
            {},
            {"$ref": "#/$defs/shape"},
            {"description": "anything"},
        ]
    ),
    st.lists(TEXTS, min_size=1, max_size=3, unique=True).map(lambda v: {"enum": v}),
    st.lists(st.one_of(TEXTS, st.integers(-5, 5), st.none()), min_size=1, max_size=4).map(
        lambda v: {"enum": v}
    ),
    TEXTS.map(lambda v: {"const": v}),
)
DEFS = {
    "shape": {
        "type": "object",
        "properties": {"name": {"type": "string"}, "inner": {"$ref": "#/$defs/shape"}},
        "required": ["name"],
    }
}


def objects(values: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    @st.composite
    def build(draw: st.DrawFn) -> dict[str, Any]:
        properties = draw(st.dictionaries(NAMES, values, max_size=4))
        required = [name for name in properties if draw(st.booleans())]
        schema = {"type": "object", "properties": properties, "required": required}
        if draw(st.booleans()):
            schema["additionalProperties"] = False
        return schema

    return build()


SCHEMAS = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        objects(inner),
        inner.map(lambda items: {"type": "array", "items": items}),
        st.lists(inner, min_size=1, max_size=3).map(lambda options: {"anyOf": options}),
    ),
    max_leaves=4,
)
TOOLS = st.dictionaries(
    st.text("abcxyz_-", min_size=1, max_size=5), objects(SCHEMAS), min_size=1, max_size=3
).map(
    lambda tools: [
        {"type": "function", "function": {"name": name, "parameters": {**schema, "$defs": DEFS}}}
        for name, schema in tools.items()
    ]
)


@pytest.mark.parametrize("which", ["bytes", "trained"])
def test_calls_are_complete_and_their_arguments_valid(
    which: str, tokenizers: dict[str, Tokenizer], grammars: dict[str, Grammars]
) -> None:
    tokenizer = tokenizers[which]

    @settings(max_examples=40, deadline=None, phases=[Phase.generate])
    @given(tools=TOOLS, seed=st.integers(0, 1 << 32))
    def check(tools: list[Any], seed: int) -> None:
        constraint = constraint_of(grammars[which], tools=tools, tool_choice="required")
        ids = draw(constraint, tokenizer, seed)
        reply, malformed = read(ids, tokenizer, tools)
        assert malformed == {} and reply.content == "" and reply.tool_calls
        parameters = {tool["function"]["name"]: tool["function"]["parameters"] for tool in tools}
        for call in reply.tool_calls:
            jsonschema_rs.validate(parameters[call.name], json.loads(str(call.arguments)))
        pieces = [piece for index in ids for piece in tokenizer.decoder().feed(index)]
        if not any("\ufffd" in text for text, _ in pieces):  # characters cut into several ids
            assert parse(pieces, thinking=False).tool_calls == reply.tool_calls

    check()


@pytest.mark.parametrize("which", ["bytes", "trained"])
def test_content_is_json_of_the_schema(
    which: str, tokenizers: dict[str, Tokenizer], grammars: dict[str, Grammars]
) -> None:
    tokenizer = tokenizers[which]

    @settings(max_examples=40, deadline=None, phases=[Phase.generate])
    @given(schema=SCHEMAS, seed=st.integers(0, 1 << 32))
    def check(schema: dict[str, Any], seed: int) -> None:
        schema = {**schema, "$defs": DEFS}
        constraint = constraint_of(grammars[which], format=Schema(schema))
        text = tokenizer.decode(draw(constraint, tokenizer, seed))
        jsonschema_rs.validate(schema, json.loads(text))

    check()


@pytest.mark.parametrize("which", ["bytes", "trained"])
def test_json_objects(
    which: str, tokenizers: dict[str, Tokenizer], grammars: dict[str, Grammars]
) -> None:
    tokenizer = tokenizers[which]
    for seed in range(30):
        ids = draw(constraint_of(grammars[which], format=Schema(None)), tokenizer, seed)
        assert isinstance(json.loads(tokenizer.decode(ids)), dict)


def test_patterns(tokenizers: dict[str, Tokenizer], grammars: dict[str, Grammars]) -> None:
    tokenizer = tokenizers["trained"]
    found = {
        tokenizer.decode(
            draw(
                constraint_of(grammars["trained"], format=Pattern("(yes|no|maybe [0-9]{2})")),
                tokenizer,
                seed,
            )
        )
        for seed in range(40)
    }
    assert {"yes", "no"} < found
    assert all(text in ("yes", "no") or text.startswith("maybe ") for text in found)


def test_thinking_comes_before_what_is_forced(
    tokenizers: dict[str, Tokenizer], grammars: dict[str, Grammars]
) -> None:
    tokenizer = tokenizers["bytes"]
    tools = [{"name": "first"}, {"name": "second"}]
    for seed in range(20):
        constraint = constraint_of(
            grammars["bytes"], thinking=True, tools=tools, tool_choice=Named("second")
        )
        ids = draw(constraint, tokenizer, seed)
        reply, malformed = read(ids, tokenizer, tools, thinking=True)
        assert {call.name for call in reply.tool_calls} == {"second"}
        assert tokenizer.control_id(THINK_CLOSE) in ids or malformed == {"block_in_reasoning": 1}
