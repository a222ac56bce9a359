"""Numbers that others published, to stand beside what was measured here, and marked as such."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from dsv4.evaluation.benchmark import Result, Row
from dsv4.evaluation.standard.question import SHOWN

FILE = Path(__file__).parent / "published.toml"

NOTE = (
    "*Published* numbers are DeepSeek's own ({source}); nobody measured them here. They are of "
    "whole sets, asked by another harness with other prompts (the base models with examples in "
    "them), so even a difference outside the interval may be one of prompts."
)

_EFFORTS = tuple(SHOWN.values())
_NONE = (math.nan, math.nan, math.nan)


@dataclass(frozen=True)
class Published:
    """The numbers of one set. own, tasks: what measures it here. base: V3.2, Flash and Pro before
    post-training. flash, pro: by effort, as `SHOWN` has them. Absent ones are NaN."""

    name: str
    own: str = ""
    tasks: tuple[str, ...] = ()
    base: tuple[float, ...] = _NONE
    flash: tuple[float, ...] = _NONE
    pro: tuple[float, ...] = _NONE


@cache
def published() -> tuple[str, tuple[Published, ...]]:
    """(where they are from, all of them)."""
    values = tomllib.loads(FILE.read_text(encoding="utf-8"))
    sets = []
    for entry in values["set"]:
        made: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in entry.items()}
        sets.append(Published(**made))
    return values["source"], tuple(sets)


def find(benchmark: str) -> Published | None:
    """The numbers of what a benchmark of this name, or a task of inspect_evals, measures."""
    short = benchmark.rpartition("/")[2]
    return next((p for p in published()[1] if benchmark == p.own or short in p.tasks), None)


def compared(results: Mapping[str, Result]) -> list[list[str]]:
    """Lines of a table, its head first: what was measured, and what was published of the same set.

    Empty if nothing was published of any.
    """
    lines: list[list[str]] = []
    for name, result in results.items():
        found = find(name)
        if found is not None:
            lines += [_line(found, row) for row in result.rows if row.measure == "right"]
    head = ["", "effort", "questions", "measured here", "*published:* Flash", "Pro",
            "Flash base", "Pro base"]  # fmt: skip
    return [head, *lines] if lines else []


def _line(found: Published, row: Row) -> list[str]:
    low, high = 100 * row.low, 100 * row.high
    measured = f"{100 * row.mean:.1f} ({low:.1f} to {high:.1f})"
    at = _EFFORTS.index(row.group) if row.group in _EFFORTS else None
    by_effort = ("", "") if at is None else (_shown(found.flash[at]), _shown(found.pro[at]))
    cells: Sequence[str] = (*by_effort, _shown(found.base[1]), _shown(found.base[2]))
    return [found.name, row.group, str(row.count), measured, *cells]


def _shown(value: float) -> str:
    return "" if math.isnan(value) else f"{value:g}"


def note() -> str:
    return NOTE.format(source=published()[0])
