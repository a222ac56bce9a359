"""Tool calls: invented tools with names that were not trained on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from dsv4.evaluation import intervals
from dsv4.evaluation.benchmark import Benchmark, Row, Settings, averages
from dsv4.evaluation.benchmarks.problems import items as problem_items
from dsv4.evaluation.question import Item, Target
from dsv4.evaluation.records import Record
from dsv4.tasks.problem import EFFORTS, Ask

PROBLEMS = 300
MEASURES = ("well_formed", "right_name", "right_arguments")


def items(settings: Settings, target: Target) -> Iterator[Item]:
    for task in ("tool_call", "tool_calls"):
        for effort in EFFORTS:
            group = f"{task}, {effort}"
            count = settings.count(PROBLEMS if task == "tool_call" else PROBLEMS // 2)
            yield from problem_items(task, group, count, Ask(effort=effort))


def rows(records: Sequence[Record]) -> list[Row]:
    """Shares by task and effort, and of all. Every effort is asked the same requests, and what is
    right with one mostly is with the others: the interval of all is that of as many answers as
    there are requests."""
    requests = {(r.group.partition(",")[0], r.id.rpartition("/")[2]) for r in records}
    overall = []
    for measure in MEASURES:
        share = sum(record.measures.get(measure, 0.0) for record in records) / len(records)
        estimate = intervals.wilson(share * len(requests), len(requests))
        overall.append(Row.of("all", measure, len(records), estimate))
    return [*overall, *averages(*MEASURES, overall=False)(records)]


TOOLS = Benchmark(
    "tools",
    "Tool calls",
    "Tools with unseen names: the reply is a well-formed call (or two), of the right tool, with "
    "exactly the right arguments. A model folder decodes without constraints, a server as it "
    "does. The interval of all counts the answers to one request, which differ in thinking, as "
    "one.",
    items,
    rows,
)
