"""What holds for every task."""

from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from dsv4.encoding.events import Reply
from dsv4.encoding.parse import parse
from dsv4.errors import UsageError
from dsv4.tasks.checks import grade_answer
from dsv4.tasks.problem import EFFORTS, Ask
from dsv4.tasks.registry import TASKS, generate, problems

EVERY = pytest.mark.parametrize("name", sorted(TASKS))
SPLITS = ("train", "heldout")


def corrupted(reply):
    """The reply with its content or its arguments spoiled."""
    if reply.tool_calls:
        first, *rest = reply.tool_calls
        return replace(reply, tool_calls=(replace(first, arguments='{"no": 1}'), *rest))
    return replace(reply, content="zq")


@EVERY
def test_the_reference_is_right_and_a_spoiled_reply_is_not(name):
    for split in SPLITS:
        for problem in problems(name, 60, seed=1, split=split):
            assert problem.task == name
            assert problem.grade(problem.reply).score == 1, problem
            assert problem.grade(corrupted(problem.reply)).score < 1, problem
            assert problem.grade(Reply(None, "")).score == 0, problem


@EVERY
def test_the_real_encoding_gives_the_reference_back(name):
    for effort in TASKS[name].efforts:
        for problem in problems(name, 20, seed=2, ask=Ask(effort=effort)):
            assert problem.effort == effort
            assert (problem.reply.reasoning is None) == (effort == "off")
            assert problem.gap or problem.prompt().opens_thinking == problem.thinking
            spans = problem.answer().spans
            read = parse(spans, thinking=problem.thinking)
            assert (read.reasoning, read.content) == (
                problem.reply.reasoning,
                problem.reply.content,
            )
            assert [call.name for call in read.tool_calls] == [
                call.name for call in problem.reply.tool_calls
            ]
            assert grade_answer(problem.check, spans, thinking=problem.thinking).score == 1


@EVERY
def test_drawing_is_deterministic(name):
    first = list(problems(name, 15, seed=3))
    assert first == list(problems(name, 15, seed=3)) != list(problems(name, 15, seed=4))
    assert generate(name, Random(9)) == generate(name, Random(9))


@EVERY
def test_problems_and_wordings_vary(name):
    shown = [problem.prompt().text for problem in problems(name, 200, seed=5)]
    assert len(set(shown)) > 150


@EVERY
def test_no_held_out_problem_is_a_training_problem(name):
    train, held = (
        {p.prompt().text for p in problems(name, 400, seed=6, split=split)} for split in SPLITS
    )
    assert not train & held


@EVERY
def test_levels_are_accepted(name):
    for level in (1, 4):
        assert len(list(problems(name, 5, ask=Ask(level=level)))) == 5


def test_every_task_says_what_it_is():
    assert all(task.summary and len(task.summary) < 80 for task in TASKS.values())
    assert all(set(task.efforts) <= set(EFFORTS) for task in TASKS.values())


def test_the_docs_list_every_task():
    docs = Path(__file__).parents[3] / "docs" / "tasks.md"
    rows = [f"| `{task.name}` | {task.summary} |" for task in TASKS.values()]
    assert [line for line in docs.read_text().splitlines() if line.startswith("| `")] == rows


def test_mistakes_are_named():
    with pytest.raises(UsageError, match="no task 'nothing'"):
        generate("nothing", Random(0))
    with pytest.raises(UsageError, match="infill has no effort 'high'"):
        generate("infill", Random(0), ask=Ask(effort="high"))
    with pytest.raises(UsageError, match="effort 'low'"):
        Ask(effort="low")
    with pytest.raises(UsageError, match="level 5"):
        Ask(level=5)
