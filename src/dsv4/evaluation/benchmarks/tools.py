"""Tool calls: invented tools with names that were not trained on."""

from __future__ import annotations

from collections.abc import Iterator

from dsv4.evaluation.benchmark import Benchmark, Settings, averages
from dsv4.evaluation.benchmarks.problems import items as problem_items
from dsv4.evaluation.question import Item, Target
from dsv4.tasks.problem import EFFORTS, Ask

PROBLEMS = 300


def items(settings: Settings, target: Target) -> Iterator[Item]:
    for task in ("tool_call", "tool_calls"):
        for effort in EFFORTS:
            group = f"{task}, {effort}"
            count = settings.count(PROBLEMS if task == "tool_call" else PROBLEMS // 2)
            yield from problem_items(task, group, count, Ask(effort=effort))


TOOLS = Benchmark(
    "tools",
    "Tool calls",
    "Tools with unseen names, decoded without constraints: the reply is a well-formed call (or "
    "two), of the right tool, with exactly the right arguments.",
    items,
    averages("well_formed", "right_name", "right_arguments"),
)
