"""Sums by effort of thinking and level: the same sums are asked with every effort."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from dsv4.evaluation import intervals
from dsv4.evaluation.benchmark import Benchmark, Row, Settings, averages
from dsv4.evaluation.benchmarks.problems import items as problem_items
from dsv4.evaluation.question import Item, Target
from dsv4.evaluation.records import Record
from dsv4.tasks.problem import EFFORTS, Ask

SUMS = 50
LEVELS = (1, 2, 3, 4)


def items(settings: Settings, target: Target) -> Iterator[Item]:
    for effort in EFFORTS:
        for level in LEVELS:
            ask = Ask(effort=effort, level=level)
            group = f"{effort}, level {level}"
            yield from problem_items("arithmetic", group, settings.count(SUMS), ask)


def rows(records: Sequence[Record]) -> list[Row]:
    """Exact answers by effort and level, and by how much thinking beats not thinking: number i of
    a level is the same sum with every effort."""
    found: dict[str, dict[str, list[float]]] = {}
    for record in records:
        effort, _, level = record.group.partition(", ")
        for name in ("all levels", level):
            scores = found.setdefault(effort, {}).setdefault(name, [])
            scores.append(record.measures["score"])
    result = [
        Row.of(f"{effort}, {level}", "right", len(scores), intervals.mean(scores))
        for effort, levels in found.items()
        for level, scores in levels.items()
    ]
    plain = found["off"]["all levels"]
    for effort in found:
        if effort != "off":
            gap = intervals.difference(found[effort]["all levels"], plain)
            result.append(Row.of(f"{effort} minus off", "difference", len(plain), gap))
    return result


ARITHMETIC = Benchmark(
    "arithmetic",
    "Arithmetic",
    "Exact answers to sums that were not trained on, without thinking and with; levels have one "
    "to four digits. The last rows: how much thinking gains on the same sums.",
    items,
    rows,
)


def _infills(settings: Settings, target: Target) -> Iterator[Item]:
    return problem_items("infill", "infill", settings.count(200))


INFILL = Benchmark(
    "infill",
    "Fill in the middle",
    "The hole is filled exactly: small functions, and sentences whose words stand nearby.",
    _infills,
    averages("right"),
)
