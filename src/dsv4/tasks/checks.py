"""Checks: how a reply to a problem becomes a score.

Every check gives 1 for a right reply, 0 for a wrong one, and where a reply can be right in part
something between. `Grade.detail` says what was right; `well_formed` is always there.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from dsv4.encoding.dsml import history_arguments
from dsv4.encoding.events import Reply
from dsv4.encoding.messages import ToolCall
from dsv4.encoding.parse import parse
from dsv4.errors import ParseError

Format = Literal["json", "csv", "yaml"]

_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")


@dataclass(frozen=True)
class Grade:
    """A score in [0, 1] and what led to it."""

    score: float
    detail: Mapping[str, bool | float] = field(default_factory=dict)


class Check(Protocol):
    """Judges replies to one problem."""

    def grade(self, reply: Reply) -> Grade:
        """The grade of a reply."""
        ...


def grade_answer(
    check: Check, answer: str | Iterable[tuple[str, bool]], *, thinking: bool
) -> Grade:
    """Grade what a model wrote, as text or as spans of (text, is control).

    Nothing is repaired: an answer that departs from the encoding scores 0.
    """
    try:
        reply = parse(answer, thinking=thinking)
    except ParseError:
        return Grade(0.0, {"well_formed": False})
    return check.grade(reply)


@dataclass(frozen=True)
class Number:
    """The answer is a number: the last one in the reply."""

    value: int

    def grade(self, reply: Reply) -> Grade:
        found = _NUMBER.findall(reply.content)
        said = found[-1].replace(",", "") if found else ""
        right = bool(said) and float(said) == self.value
        return _plain(reply, right, bare=reply.content.strip() == str(self.value))


@dataclass(frozen=True)
class Exact:
    """The reply is one of `texts`, but for space around it (if `loose`, case and a full stop)."""

    texts: tuple[str, ...]
    loose: bool = True

    def grade(self, reply: Reply) -> Grade:
        wanted = {self._shape(text) for text in self.texts}
        return _plain(reply, self._shape(reply.content) in wanted)

    def _shape(self, text: str) -> str:
        text = text.strip()
        return text.removesuffix(".").casefold() if self.loose else text


@dataclass(frozen=True)
class Code:
    """The reply fills a gap exactly, but for space at its end."""

    text: str

    def grade(self, reply: Reply) -> Grade:
        return _plain(reply, reply.content.rstrip() == self.text.rstrip())


@dataclass(frozen=True)
class Mentions:
    """The reply says something of every group in `wanted` and nothing of `unwanted`.

    Whole words, any case. Scores the share of groups that were met; 0 if something unwanted is
    said, if the reply has more than `longest` words or, with `sentence`, does not end like one.
    """

    wanted: tuple[tuple[str, ...], ...]
    unwanted: tuple[str, ...] = ()
    sentence: bool = False
    longest: int = 120

    def grade(self, reply: Reply) -> Grade:
        met = sum(any(_says(reply.content, word) for word in group) for group in self.wanted)
        share = met / len(self.wanted) if self.wanted else float(bool(reply.content.strip()))
        clean = not any(_says(reply.content, word) for word in self.unwanted)
        ends = not self.sentence or reply.content.rstrip().endswith((".", "!", "?", '"'))
        brief = len(reply.content.split()) <= self.longest
        formed = not reply.tool_calls and ends and brief
        score = share if clean and formed else 0.0
        detail = {"well_formed": formed, "right": score == 1.0, "mentioned": share, "clean": clean}
        return Grade(score, detail)


@dataclass(frozen=True)
class Record:
    """The reply holds rows of data in a format, in a code block or not."""

    rows: tuple[Mapping[str, Any], ...]
    format: Format

    def grade(self, reply: Reply) -> Grade:
        text = _unfenced(reply.content)
        try:
            found = _READERS[self.format](text)
        except ValueError:
            return Grade(0.0, {"well_formed": False, "right": False})
        wanted = [dict(row) for row in self.rows]
        if self.format == "csv":  # knows no types
            wanted = [{key: _plain_text(value) for key, value in row.items()} for row in wanted]
        right = found == wanted and not reply.tool_calls
        return Grade(float(right), {"well_formed": True, "right": right})


@dataclass(frozen=True)
class Calls:
    """The reply calls these tools, with these arguments, in this order.

    Half of a call's share of the score is its name, half its arguments; more or fewer calls than
    asked for cost what the additional or missing ones are worth.
    """

    calls: tuple[ToolCall, ...]

    def grade(self, reply: Reply) -> Grade:
        made = [(call.name, history_arguments(call.arguments)) for call in reply.tool_calls]
        wanted = [(call.name, history_arguments(call.arguments)) for call in self.calls]
        pairs = list(zip(made, wanted, strict=False))
        names = sum(a[0] == b[0] for a, b in pairs)
        whole = sum(_same(a, b) for a, b in pairs)
        most = max(len(made), len(wanted))
        formed = bool(made)
        score = (names + whole) / (2 * most)
        detail: dict[str, bool | float] = {
            "well_formed": formed,
            "right": score == 1.0,
            "right_name": names == most,
            "right_arguments": whole == most,
        }
        return Grade(score, detail)


def _same(made: object, wanted: object) -> bool:
    """Equality in which 1, 1.0 and True are three things, as they are in a schema."""
    return json.dumps(made, sort_keys=True) == json.dumps(wanted, sort_keys=True)


def _plain(reply: Reply, right: bool, **more: bool) -> Grade:
    formed = not reply.tool_calls
    score = float(right and formed)
    return Grade(score, {"well_formed": formed, "right": score == 1.0, **more})


def _says(text: str, word: str) -> bool:
    pattern = rf"(?<!\w){re.escape(word.casefold())}(?!\w)"
    return re.search(pattern, text.casefold()) is not None


def _unfenced(text: str) -> str:
    found = re.search(r"```\w*\n(.*?)```", text, re.DOTALL)
    return (found.group(1) if found else text).strip()


def _plain_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _read_json(text: str) -> list[dict[str, Any]]:
    value = json.loads(text)
    rows = value if isinstance(value, list) else [value]
    if not all(isinstance(row, dict) for row in rows):
        raise ValueError("not objects")
    return rows


def _read_csv(text: str) -> list[dict[str, Any]]:
    lines = list(csv.reader(io.StringIO(text)))
    if len(lines) < 2 or any(len(line) != len(lines[0]) for line in lines):
        raise ValueError("not a table")
    return [dict(zip(lines[0], line, strict=True)) for line in lines[1:]]


def _read_yaml(text: str) -> list[dict[str, Any]]:
    """Flat records in block style: all the YAML that the problems need."""
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(text.splitlines()):
        if line.startswith("- ") or not number:
            rows.append({})
        key, colon, value = line.removeprefix("- ").strip().partition(":")
        if not colon or not value.startswith(" "):
            raise ValueError(f"no key and value: {line}")
        rows[-1][key] = _yaml_value(value.strip())
    return rows


def _yaml_value(text: str) -> Any:
    if text.startswith('"'):
        return json.loads(text)
    if re.fullmatch(r"-?\d+(\.\d+)?|true|false|null", text):
        return json.loads(text)
    return text


_READERS = {"json": _read_json, "csv": _read_csv, "yaml": _read_yaml}
