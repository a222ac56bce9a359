"""The other tasks of the project, one line each."""

from __future__ import annotations

from collections.abc import Iterator

from dsv4.evaluation.benchmark import Benchmark, Settings, averages
from dsv4.evaluation.benchmarks.problems import items as problem_items
from dsv4.evaluation.question import Item, Target
from dsv4.tasks.problem import Ask, Effort
from dsv4.tasks.registry import TASKS

PROBLEMS = 60

ELSEWHERE = ("arithmetic", "infill", "tool_call", "tool_calls", "needle", "recall")
"""Tasks with a benchmark of their own."""


def items(settings: Settings, target: Target) -> Iterator[Item]:
    efforts: tuple[Effort, ...] = ("off", "high")
    for name, task in TASKS.items():
        for effort in efforts:
            if name not in ELSEWHERE and effort in task.efforts:
                ask = Ask(effort=effort)
                group = f"{name}, {effort}"
                yield from problem_items(name, group, settings.count(PROBLEMS), ask)


OTHERS = Benchmark(
    "tasks",
    "Other tasks",
    "Held-out problems of the project's own tasks: mean score, and the share that ends in form.",
    items,
    averages("score", "well_formed", overall=False),
)
