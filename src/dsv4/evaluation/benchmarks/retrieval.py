"""Finding a fact in a long text, and a value in a long list, by length of the context and depth."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from random import Random

from dsv4.data.corpora import read_records
from dsv4.evaluation import intervals
from dsv4.evaluation.benchmark import Benchmark, Row, Settings
from dsv4.evaluation.benchmarks.problems import grade
from dsv4.evaluation.benchmarks.problems import item as problem_item
from dsv4.evaluation.question import Answer, Chat, Item, Measures, Target
from dsv4.evaluation.records import Record
from dsv4.tasks.checks import Mentions
from dsv4.tasks.problem import Ask, Problem
from dsv4.tasks.registry import generate

LENGTHS = {128: 40, 512: 40, 2048: 40, 8192: 16, 32768: 6, 65536: 4}
"""Tokens of the prompt, at most -> problems of that length; half a million tokens in all."""

QUICK = 2048
"""The longest prompt of a quick run."""

TRIES = 6
"""Problems that are made to find one of the right length."""

ROOM = 96
"""Tokens that are left for the answer."""

DEPTHS = ("first third", "middle third", "last third")


def items(task: str, settings: Settings, target: Target) -> Iterator[Item]:
    """Prompts of every length that fits into the target's context."""
    texts = _texts(settings)
    for length, usual in LENGTHS.items():
        if length > (QUICK if settings.quick else target.context - ROOM):
            return
        words = 0.6 * length
        for i in range(settings.count(usual, most=usual)):
            problem, fitting = _fitted(task, f"{length}/{i}", length, words, texts, target)
            words = fitting if i == 0 else words  # the others begin with what the first one had
            yield _item(problem, f"{length}/{i}", str(length))


def _fitted(
    task: str, seed: str, length: int, words: float, texts: tuple[str, ...], target: Target
) -> tuple[Problem, float]:
    """A problem whose prompt has at most `length` tokens, of which it uses nine tenths if its
    sentences are short enough for that; and its number of words, `words` being tried first."""
    best: tuple[Problem, float] | None = None
    for _ in range(TRIES):
        ask = Ask(effort="off", words=max(2, int(words)), texts=texts)
        problem = generate(task, Random(f"{task}/{seed}"), "heldout", ask)
        tokens = target.length(Chat(problem.messages, 1))
        if tokens <= length:
            best = problem, words
        if 0.9 * length < tokens <= length:
            break
        words *= 0.96 * length / tokens
    return best or (problem, words)


def _texts(settings: Settings) -> tuple[str, ...]:
    """Held-out books to hide facts in, if there are any."""
    paths = sorted(settings.data.glob("heldout_books.jsonl*")) if settings.data else []
    return tuple(record["text"] for path in paths[:1] for record in read_records(path))


def _item(problem: Problem, id: str, group: str) -> Item:
    made = problem_item(problem, id, group)
    depth = _depth(problem)

    def judge(answer: Answer) -> Measures:
        return {**grade(problem, answer), "depth": depth}

    return Item(id, group, made.question, judge)


def _depth(problem: Problem) -> float:
    """Where in the text what is asked for stands: 0 at its start, 1 at its end."""
    assert isinstance(problem.check, Mentions)
    text, value = problem.messages[-1].content, problem.check.wanted[0][0]
    return text.index(value) / len(text)


def rows(records: Sequence[Record]) -> list[Row]:
    """The share that was found by length, and by length and depth (of which some may be empty)."""
    groups: dict[tuple[str, str], list[float]] = {}
    for length in dict.fromkeys(record.group for record in records):
        for measure in ("found", *DEPTHS):
            groups[length, measure] = []
    for record in records:
        third = DEPTHS[min(2, int(3 * record.measures["depth"]))]
        for measure in ("found", third):
            groups[record.group, measure].append(record.measures["score"])
    return [
        Row.of(group, measure, len(scores), intervals.mean(scores))
        for (group, measure), scores in groups.items()
    ]


def _benchmark(task: str, title: str, about: str) -> Benchmark:
    return Benchmark(task, title, about, lambda s, t: items(task, s, t), rows)


NEEDLE = _benchmark(
    "needle",
    "Needle in other text",
    "A fact hidden in text that has nothing to do with it; rows are tokens of the prompt.",
)
RECALL = _benchmark(
    "recall",
    "Key recall",
    "The value of a key in a list of made-up keys and values; rows are tokens of the prompt.",
)
