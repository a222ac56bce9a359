"""Tool choice, formats and budgets, with a model that wants something else."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from grammar_cases import HELLO, constraint_of, draw, read

from dsv4.chat.answer import Finish
from dsv4.chat.engine import Engine
from dsv4.chat.grammar import Grammars
from dsv4.chat.request import Named, Pattern, Request, Schema
from dsv4.chat.schema import MOST_BYTES, MOST_PROPERTIES
from dsv4.encoding.control import CONTROL_TOKENS, DSML, EOS, THINK_CLOSE
from dsv4.encoding.events import Reply, collect
from dsv4.encoding.tokenizer import Tokenizer
from dsv4.engine.constraint import Constraint
from dsv4.engine.sampler import GREEDY
from dsv4.errors import RequestError

Build = Callable[..., Engine]

WEATHER = {
    "name": "weather",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
        "required": ["city"],
    },
}
CLOCK = {"name": "clock"}
CALL = (
    "\n\n<｜DSML｜tool_calls>\n"
    '<｜DSML｜invoke name="weather">\n'
    '<｜DSML｜parameter name="city" string="true">Paris</｜DSML｜parameter>\n'
    "</｜DSML｜invoke>\n"
    "</｜DSML｜tool_calls>"
)


def answer(engine: Engine, **options: Any) -> tuple[Reply, Finish]:
    fields: dict[str, Any] = {"messages": HELLO, "sampling": GREEDY, "effort": "none"} | options
    prepared = engine.prepare(Request(**fields))
    *events, finish = engine.answer(prepared)
    assert isinstance(finish, Finish)
    shown = [event for event in events if not isinstance(event, Finish)]
    return collect(shown, thinking=prepared.opens_thinking), finish  # type: ignore[arg-type]


def write(constraint: Constraint, tokenizer: Tokenizer, text: str) -> str | None:
    """Write a text, its control strings as tokens; gives the first token that may not come."""
    from dsv4.encoding.prompt import PromptBuilder

    builder = PromptBuilder()
    builder.template(text)
    for token in tokenizer.encode_prompt(builder.build()):
        mask_V = constraint.allowed()
        if mask_V is not None and not mask_V[token]:
            return tokenizer.token(token)
        constraint.accept(token)
    return None


@pytest.fixture
def tokenizer(tokenizers: dict[str, Tokenizer]) -> Tokenizer:
    return tokenizers["trained"]


@pytest.fixture
def trained(grammars: dict[str, Grammars]) -> Grammars:
    return grammars["trained"]


@pytest.mark.parametrize("effort", ["none", "high"])
def test_a_proper_call_passes(trained: Grammars, tokenizer: Tokenizer, effort: str) -> None:
    thinking = effort != "none"
    before = "I wonder.</think>Let me see." if thinking else "Let me see."
    constraint = constraint_of(trained, tools=[WEATHER, CLOCK], effort=effort, thinking=thinking)
    assert write(constraint, tokenizer, before + CALL) is None
    mask_V = constraint.allowed()
    assert mask_V is not None and mask_V.nonzero().tolist() == [[tokenizer.eos_id]]


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        ('<｜DSML｜invoke name="weather">', '<｜DSML｜invoke name="whether">'),
        ('name="city" string="true"', 'name="city" string="false"'),
        ('name="city" string="true">Paris', 'name="town" string="true">Paris'),
        ('name="city" string="true">Paris', 'name="days" string="false">many'),
        ('name="city" string="true">Paris', 'name="days" string="false">5'),  # no city then
        ("</｜DSML｜parameter>", "</｜DSML｜invoke>"),
        ("</｜DSML｜tool_calls>", "</｜DSML｜tool_calls>."),
        ("Paris", "<｜User｜>Paris"),
        ("tool_calls>\n", "toolcalls>\n"),
    ],
)
def test_a_call_with_a_fault_does_not(
    trained: Grammars, tokenizer: Tokenizer, good: str, bad: str
) -> None:
    assert good in CALL
    constraint = constraint_of(trained, tools=[WEATHER])
    assert write(constraint, tokenizer, CALL.replace(good, bad, 1) + EOS) is not None


def test_raw_text_may_hold_anything_but_its_closer(trained: Grammars, tokenizer: Tokenizer) -> None:
    odd = 'a </b> "quoted" {} </｜ <tag>\n\n&amp; é世 </'
    constraint = constraint_of(trained, tools=[WEATHER])
    assert write(constraint, tokenizer, CALL.replace("Paris", odd)) is None


def test_a_parameter_comes_once(trained: Grammars, tokenizer: Tokenizer) -> None:
    parameter = '<｜DSML｜parameter name="city" string="true">Paris</｜DSML｜parameter>\n'
    constraint = constraint_of(trained, tools=[WEATHER])
    assert write(constraint, tokenizer, CALL.replace(parameter, parameter * 2)) is not None


def test_only_one_call_unless_parallel(trained: Grammars, tokenizer: Tokenizer) -> None:
    end = "</｜DSML｜invoke>\n"
    start = CALL.index("<｜DSML｜invoke")
    invoke = CALL[start : CALL.index(end) + len(end)]
    two = CALL.replace(invoke, invoke * 2)
    assert write(constraint_of(trained, tools=[WEATHER]), tokenizer, two) is None
    once = constraint_of(trained, tools=[WEATHER], parallel=False)
    assert write(once, tokenizer, two) is not None


def test_content_is_free_until_the_opener(trained: Grammars, tokenizer: Tokenizer) -> None:
    constraint = constraint_of(trained, tools=[WEATHER])
    assert write(constraint, tokenizer, "x < y, <b>bold</b>") is None
    assert write(constraint, tokenizer, DSML) == DSML
    assert write(constraint, tokenizer, " <") is None
    assert write(constraint, tokenizer, DSML + "tool_calls>\n") is None


def test_no_tool_is_called_if_none_may_be(scripted: Build) -> None:
    reply, finish = answer(scripted("Hm." + CALL), tools=[WEATHER], tool_choice="none")
    assert reply.tool_calls == () and finish.reason != "tool_calls"
    assert DSML not in reply.content


@pytest.mark.parametrize("effort", ["none", "high"])
@pytest.mark.parametrize("choice", ["required", Named("weather")])
def test_a_call_is_forced(
    trained: Grammars, tokenizer: Tokenizer, effort: str, choice: Any
) -> None:
    thinking = effort == "high"
    tools = [CLOCK, WEATHER] if isinstance(choice, Named) else [WEATHER]
    constraint = constraint_of(
        trained, tools=tools, tool_choice=choice, thinking=thinking, effort=effort
    )
    if thinking:
        assert write(constraint, tokenizer, "No. I will not call." + EOS) == EOS
        assert write(constraint, tokenizer, THINK_CLOSE) is None
    assert write(constraint, tokenizer, "No") is not None
    assert write(constraint, tokenizer, CALL) is None


def test_a_model_that_wants_no_call_makes_one(scripted: Build) -> None:
    reply, finish = answer(
        scripted("I will not."), tools=[CLOCK], tool_choice="required", parallel=False
    )
    assert [(call.name, call.arguments) for call in reply.tool_calls] == [("clock", "{}")]
    assert finish.reason == "tool_calls"


def test_json_mode(scripted: Build) -> None:
    engine = scripted('Sure: {"a": 1}')
    reply, _ = answer(engine, format=Pattern('\\{"a": 1\\}'))
    assert json.loads(reply.content) == {"a": 1}


def test_a_format_leaves_calls_possible(trained: Grammars, tokenizer: Tokenizer) -> None:
    fields: dict[str, Any] = {"format": Schema(None), "tools": [WEATHER]}
    assert write(constraint_of(trained, **fields), tokenizer, CALL + EOS) is None
    assert write(constraint_of(trained, **fields), tokenizer, '{"x": []}' + EOS) is None
    assert write(constraint_of(trained, **fields), tokenizer, "text") is not None


def test_a_prefix_counts_for_the_format(trained: Grammars, tokenizer: Tokenizer) -> None:
    constraint = constraint_of(trained, format=Schema(None), begun='{"a": [1,')
    assert write(constraint, tokenizer, " 2]}" + EOS) is None
    with pytest.raises(RequestError, match="prefix does not fit") as caught:
        constraint_of(trained, format=Schema(None), begun="Well, ")
    assert caught.value.param == "messages"


def test_thinking_ends_when_its_budget_is_spent(scripted: Build) -> None:
    engine = scripted("abcdefghij</think>42")
    reply, finish = answer(engine, effort="high", thinking_budget=4)
    assert reply.reasoning == "abcd"
    assert finish.usage.reasoning == 5  # and </think>
    reply, _ = answer(engine, effort="high", thinking_budget=100)
    assert (reply.reasoning, reply.content) == ("abcdefghij", "42")
    reply, _ = answer(engine, effort="high", thinking_budget=0)
    assert reply.reasoning == ""


def test_a_budget_and_a_forced_call(grammars: dict[str, Grammars], tokenizers: Any) -> None:
    tokenizer = tokenizers["bytes"]
    for seed in range(10):
        constraint = constraint_of(
            grammars["bytes"],
            thinking=True,
            tools=[CLOCK],
            tool_choice="required",
            thinking_budget=7,
        )
        ids = draw(constraint, tokenizer, seed)
        reply, _ = read(ids, tokenizer, [CLOCK], thinking=True)
        assert reply.tool_calls and reply.reasoning is not None
        assert len(reply.reasoning.encode("utf-8", "replace")) <= 3 * 7


def test_control_tokens_never_come_inside(trained: Grammars, tokenizer: Tokenizer) -> None:
    constraint = constraint_of(trained, format=Schema(None))
    assert write(constraint, tokenizer, '{"a": "') is None
    mask_V = constraint.allowed()
    assert mask_V is not None
    assert not any(mask_V[tokenizer.control_id(token)] for token in CONTROL_TOKENS)
    assert not mask_V[tokenizer.vocab_size :].any()


def _nested(depth: int) -> dict[str, Any]:
    return {"items": _nested(depth - 1)} if depth else {}


def test_unions_of_unions_are_read_in_reasonable_time(trained: Grammars) -> None:
    schema: dict[str, Any] = {"type": "integer"}
    for _ in range(30):
        schema = {"anyOf": [schema, schema]} if _ < 3 else {"anyOf": [schema]}
    constraint_of(trained, tools=[{"name": "a", "parameters": {"properties": {"p": schema}}}])


def test_undeclared_parameters_where_they_may_be(trained: Grammars, tokenizer: Tokenizer) -> None:
    open_tool = {
        "name": "weather",
        "parameters": {
            "properties": {"city": {"type": "string"}, "cities": {"type": "integer"}},
            "additionalProperties": {"type": "integer"},
        },
    }

    def first_fault(key: str, string: str, value: str) -> str | None:
        constraint = constraint_of(trained, tools=[open_tool])
        call = CALL.replace('"city" string="true">Paris', f'"{key}" string="{string}">{value}')
        return write(constraint, tokenizer, call)

    for key in ("town", "c", "cit", "citys", "citizen", "世"):
        assert first_fault(key, "false", "5") is None, key
        assert first_fault(key, "true", "five") is not None, key
    assert first_fault("city", "true", "five") is None
    assert first_fault("city", "false", "5") is not None
    assert first_fault("arguments", "false", "5") is not None


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [], "tool_choice": "required"}, "tool_choice"),
        ({"tools": [CLOCK], "tool_choice": Named("weather")}, "tool_choice"),
        ({"format": Pattern("(")}, "response_format"),
        ({"format": Pattern("a{1,5000}")}, "response_format"),
        ({"format": Schema({"$ref": "#/$defs/nowhere"})}, "response_format"),
        ({"format": Schema({"enum": []})}, "response_format"),
        ({"format": Schema({"$ref": "#"})}, "response_format"),
        ({"format": Schema({"enum": ["\ud800"]})}, "response_format"),
        ({"format": Schema(_nested(100))}, "response_format"),
        ({"format": Schema({"description": "x" * MOST_BYTES})}, "response_format"),
        ({"format": Schema({"x": object()})}, "response_format"),
        ({"tools": [{"name": "a b"}]}, "tools"),
        ({"tools": [{"name": "a", "parameters": []}]}, None),
        (
            {
                "tools": [
                    {
                        "name": "a",
                        "parameters": {
                            "properties": {str(i): {} for i in range(MOST_PROPERTIES + 1)}
                        },
                    }
                ]
            },
            "tools",
        ),
        ({"tools": [{"name": "a", "parameters": {"properties": {'a">': {}}}}]}, "tools"),
    ],
)
def test_what_cannot_be_followed_is_refused(
    trained: Grammars, fields: dict[str, Any], param: str | None
) -> None:
    if param is None:  # read as no parameters
        constraint_of(trained, **fields)
        return
    with pytest.raises(RequestError) as caught:
        constraint_of(trained, **fields)
    assert caught.value.param == param
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "thing"},
        {"type": 5, "properties": 7, "required": "x", "anyOf": {}, "enum": 3},
        {"allOf": [{"type": "string"}, {"minLength": 2}]},
        {"not": {"type": "string"}},
        {"type": "string", "pattern": "(?=a)b", "format": "unknown"},
        {"type": "object", "properties": {"a": True}, "additionalProperties": {"type": "null"}},
        {"type": "object", "properties": {"a": {"$ref": "#"}}},
        {"type": "string", "maxLength": 1 << 40},
        {"anyOf": [{"enum": []}]},
        {"patternProperties": {"a{1,99999}": {}}},
        {"type": "array", "minItems": 10**9},
    ],
)
def test_odd_schemas_are_no_error(trained: Grammars, schema: dict[str, Any]) -> None:
    tool = {"name": "a", "parameters": {"properties": {"p": schema, "q": {"type": "null"}}}}
    constraint_of(trained, tools=[tool])
    constraint_of(trained, tools=[{"name": "a", "parameters": schema}])


def test_grammars_are_compiled_once(trained: Grammars) -> None:
    from dsv4.chat.schema import Json

    body = Json('{"type": "integer"}')
    assert trained.compiled(body, "", "x") is trained.compiled(body, "", "x")
