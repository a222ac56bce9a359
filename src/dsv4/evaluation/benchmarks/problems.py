"""Problems of the project's own tasks as items."""

from __future__ import annotations

from collections.abc import Iterator

from dsv4.encoding.prompt import Prompt, Span
from dsv4.evaluation.question import Answer, Chat, Fill, Item, Measures, Said
from dsv4.tasks.problem import Ask, Problem
from dsv4.tasks.registry import problems

MARGIN = 48
"""Tokens an answer may have besides one for each character of the reference reply."""

DRAWS = 10
"""Problems drawn for each one wanted, at most."""


def items(name: str, group: str, count: int, ask: Ask | None = None) -> Iterator[Item]:
    """Held-out problems of a task, no two of them alike: fewer than `count` if there are not so
    many. The first ones are the same whatever the count."""
    seen: set[str] = set()
    for i, problem in enumerate(problems(name, DRAWS * count, split="heldout", ask=ask)):
        asked = repr((problem.messages, problem.gap, problem.tools))
        if asked not in seen:
            seen.add(asked)
            yield item(problem, f"{group}/{i}", group)
        if len(seen) == count:
            return


def item(problem: Problem, id: str, group: str) -> Item:
    """A problem as an item, graded by its own check."""
    limit = MARGIN + len(said(problem.answer()))
    if problem.gap is not None:
        shown = f"{problem.gap.prefix}▁{problem.gap.suffix}"
        fill = Fill(problem.gap.prefix, problem.gap.suffix, limit)
        return Item(id, group, fill, lambda answer: grade(problem, answer), shown)
    chat = Chat(problem.messages, limit, problem.effort, problem.tools)
    shown = problem.messages[-1].content
    return Item(id, group, chat, lambda answer: grade(problem, answer), shown)


def said(prompt: Prompt) -> str:
    """All of a prompt as text."""
    return "".join(span.text for span in prompt.spans if isinstance(span, Span))


def grade(problem: Problem, answer: Answer) -> Measures:
    """The grade of an answer as numbers, `well_formed` and `score` always among them. One that
    departs from the encoding or was cut off is wrong."""
    assert isinstance(answer, Said)
    if answer.reply is None or not answer.finished:
        return {"well_formed": 0.0, "score": 0.0}
    grade = problem.grade(answer.reply)
    return {"score": grade.score} | {key: float(value) for key, value in grade.detail.items()}
