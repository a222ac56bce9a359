"""Calls of functions: the single-turn parts of BFCL v4 (Berkeley Function-Calling Leaderboard)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from dsv4.encoding.events import Reply
from dsv4.evaluation import intervals
from dsv4.evaluation.benchmark import Benchmark, Row, Settings
from dsv4.evaluation.question import Item, Target
from dsv4.evaluation.records import Record as Answered
from dsv4.evaluation.standard.question import items
from dsv4.evaluation.standard.records import Record, first, read

PER_CATEGORY = 20
CATEGORIES = (
    "simple_python",
    "multiple",
    "parallel",
    "parallel_multiple",
    "live_simple",
    "live_parallel",
    "live_parallel_multiple",
    "irrelevance",
    "live_relevance",
)
"""The others need turns, or another language's types."""

_TYPES = {"dict": "object", "float": "number", "tuple": "array", "any": None}
"""Types of the data set that JSON Schema has other names for; None: none."""

_INVALID = re.compile(r"[^A-Za-z0-9_-]")
_IGNORED = re.compile(r"[ ,./\-_*^]")


def _items(settings: Settings, target: Target) -> Iterator[Item]:
    records = [r for r in read(settings, "bfcl_v4") if r["category"] in CATEGORIES]
    for record in first(records, settings.count(PER_CATEGORY), "category"):
        tools = [_tool(function) for function in record["function"]]
        text = "\n\n".join(message["content"] for message in record["question"][0])
        right = partial(_right, record)
        for item in items(settings, record["id"], text, right, tools):
            yield Item(item.id, f"{item.group}, {record['category']}", item.question, item.grade,
                       item.prompt)  # fmt: skip


def _name(name: str) -> str:
    """A name as APIs allow it."""
    return _INVALID.sub("_", name)


def _tool(function: Mapping[str, Any]) -> Mapping[str, Any]:
    parameters = _schema(function["parameters"])
    return {**function, "name": _name(function["name"]), "parameters": parameters}


def _schema(value: Any) -> Any:
    if isinstance(value, list):
        return [_schema(part) for part in value]
    if not isinstance(value, dict):
        return value
    made = {key: _schema(part) for key, part in value.items()}
    kind = made.get("type")
    if isinstance(kind, str) and kind in _TYPES:
        named = _TYPES[kind]
        made = {k: v for k, v in made.items() if k != "type"} | ({"type": named} if named else {})
    return made


def _right(record: Record, reply: Reply) -> bool:
    if record["category"] == "irrelevance":
        return not reply.tool_calls
    if record["category"] == "live_relevance":
        return bool(reply.tool_calls)
    try:
        made = [(call.name, json.loads(_written(call.arguments))) for call in reply.tool_calls]
    except ValueError:
        return False
    return matches(made, record["ground_truth"])


def _written(arguments: Any) -> str:
    return arguments if isinstance(arguments, str) else json.dumps(arguments or {})


def matches(made: Sequence[tuple[str, Any]], wanted: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the calls are those that are wanted, in any order."""
    left = list(wanted)
    for name, arguments in made:
        found = next((one for one in left if _fits(name, arguments, one)), None)
        if found is None:
            return False
        left.remove(found)
    return not left


def _fits(name: str, arguments: Any, wanted: Mapping[str, Any]) -> bool:
    ((function, allowed),) = wanted.items()
    return name == _name(function) and isinstance(arguments, dict) and _fields(arguments, allowed)


def _fields(given: Mapping[str, Any], allowed: Mapping[str, Sequence[Any]]) -> bool:
    """Each of `allowed` lists the values a field may have; "" says that it may be left out."""
    if not given.keys() <= allowed.keys():
        return False
    return all(
        any(_same(given[key], value) for value in values) if key in given else "" in values
        for key, values in allowed.items()
    )


def _same(given: Any, wanted: Any) -> bool:
    if isinstance(wanted, str) and isinstance(given, str):
        return _IGNORED.sub("", given).lower() == _IGNORED.sub("", wanted).lower()
    if isinstance(wanted, dict) and isinstance(given, dict):
        return _fields(given, {k: v if isinstance(v, list) else [v] for k, v in wanted.items()})
    if isinstance(wanted, list) and isinstance(given, list):
        return len(given) == len(wanted) and all(map(_same, given, wanted))
    if isinstance(wanted, bool) or isinstance(given, bool):
        return given is wanted
    return bool(given == wanted)


def _rows(records: Sequence[Answered]) -> list[Row]:
    """All calls by effort, then their categories."""
    groups: dict[tuple[str, bool], list[float]] = {}
    for record in records:
        effort = record.group.partition(", ")[0]
        groups.setdefault((effort, False), []).append(record.measures["right"])
        groups.setdefault((record.group, True), []).append(record.measures["right"])
    return [
        Row.of(name, "right", len(values), intervals.mean(values), detail=detail)
        for (name, detail), values in groups.items()
    ]


BFCL = Benchmark(
    "bfcl",
    "BFCL v4, single turn",
    "Calls of given functions, none where none fits; every name and value has to be right. The "
    "grader is our own, after the rules of the leaderboard: compare only with itself.",
    _items,
    _rows,
    suite="standard",
)
