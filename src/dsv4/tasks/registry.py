"""All tasks by name, and how problems are drawn from them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from random import Random
from types import MappingProxyType

from dsv4.errors import UsageError
from dsv4.tasks import (
    arithmetic,
    calling,
    everyday,
    formats,
    identity,
    infill,
    meaning,
    recall,
    repeating,
    strings,
    whereabouts,
    word_problems,
)
from dsv4.tasks.problem import Ask, Problem, Split, Task

TASKS: Mapping[str, Task] = MappingProxyType(
    {
        task.name: task
        for task in (
            arithmetic.TASK,
            word_problems.TASK,
            strings.TASK,
            formats.TASK,
            *recall.TASKS,
            repeating.TASK,
            whereabouts.TASK,
            meaning.TASK,
            infill.TASK,
            *calling.TASKS,
            everyday.TASK,
            identity.TASK,
        )
    }
)


def task(name: str) -> Task:
    """The task called `name`. Raises UsageError if there is none."""
    if name not in TASKS:
        raise UsageError(f"there is no task {name!r}", "one of " + ", ".join(TASKS))
    return TASKS[name]


def generate(name: str, rng: Random, split: Split = "train", ask: Ask | None = None) -> Problem:
    """Draw a problem of a task: the same for the same state of `rng`, split and ask.

    Raises UsageError for an unknown task, or an effort that the task does not have.
    """
    drawn, ask = task(name), ask or Ask()
    if ask.effort is not None and ask.effort not in drawn.efforts:
        raise UsageError(
            f"task {name} has no effort {ask.effort!r}", "it has " + ", ".join(drawn.efforts)
        )
    return drawn.make(rng, split, ask)


def problems(
    name: str, count: int, *, seed: int = 0, split: Split = "train", ask: Ask | None = None
) -> Iterator[Problem]:
    """`count` problems; number i depends on the name, the seed, the split and i alone."""
    for i in range(count):
        yield generate(name, Random(f"{name}/{seed}/{split}/{i}"), split, ask)
