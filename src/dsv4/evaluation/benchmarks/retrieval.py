"""Finding facts in a long text, or values in a long list, by length of the context and depth."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from random import Random

from dsv4.data.corpora import read_records
from dsv4.evaluation import intervals
from dsv4.evaluation.benchmark import Benchmark, Row, Settings, Suite
from dsv4.evaluation.benchmarks import hidden
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


Make = Callable[[Random, int, tuple[str, ...]], Problem]
"""A problem of about so many words, around which these texts are put (none: made-up ones)."""


def items(name: str, make: Make, settings: Settings, target: Target) -> Iterator[Item]:
    """Prompts of every length that fits into the target's context."""
    texts = _texts(settings)
    for length in settings.lengths or LENGTHS:
        if length > (QUICK if settings.quick else target.context - ROOM):
            continue
        words = 0.6 * length
        usual = _usual(length)
        for i in range(settings.count(usual, most=None if settings.lengths else usual)):
            seed = f"{name}/{length}/{i}"
            problem, fitting = _fitted(make, seed, length, words, texts, target)
            words = fitting if i == 0 else words  # the others begin with what the first one had
            yield _item(problem, f"{length}/{i}", str(length))


def _usual(length: int) -> int:
    """Problems of a length: those of the longest listed one that is no longer."""
    return next((LENGTHS[known] for known in reversed(LENGTHS) if known <= length), 40)


def _fitted(
    make: Make, seed: str, length: int, words: float, texts: tuple[str, ...], target: Target
) -> tuple[Problem, float]:
    """A problem whose prompt has at most `length` tokens, of which it uses nine tenths if its
    sentences are short enough for that; and its number of words, `words` being tried first."""
    best: tuple[Problem, float] | None = None
    for _ in range(TRIES):
        problem = make(Random(seed), max(2, int(words)), texts)
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
    """Where in the text what is asked for stands, in the middle if it is more than one thing: 0 at
    its start, 1 at its end."""
    assert isinstance(problem.check, Mentions)
    text = problem.messages[-1].content
    places = [text.index(group[0]) / len(text) for group in problem.check.wanted]
    return sum(places) / len(places)


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


def _of_task(task: str) -> Make:
    """The held-out problems of one of the project's tasks."""

    def make(rng: Random, words: int, texts: tuple[str, ...]) -> Problem:
        return generate(task, rng, "heldout", Ask(effort="off", words=words, texts=texts))

    return make


def _benchmark(name: str, title: str, about: str, make: Make, suite: Suite = "own") -> Benchmark:
    return Benchmark(name, title, about, partial(items, name, make), rows, suite=suite)


NEEDLE = _benchmark(
    "needle",
    "Needle in other text",
    "A fact hidden in text that has nothing to do with it; rows are tokens of the prompt.",
    _of_task("needle"),
)
RECALL = _benchmark(
    "recall",
    "Key recall",
    "The value of a key in a list of made-up keys and values; rows are tokens of the prompt.",
    _of_task("recall"),
)
MULTIKEY = _benchmark(
    "multikey",
    "Several keys among others",
    f"{hidden.ASKED} of {hidden.KEYS} numbers hidden in other text, by their names: the share that "
    "is found, nothing if another number is said. Rows are tokens of the prompt.",
    hidden.keys,
    "standard",
)
VARIABLES = _benchmark(
    "variables",
    "Variable tracking",
    f"All {hidden.HOPS + 1} variables that a value is passed on to, one after the other, while "
    "another value is passed on too: the share that is named, nothing if another one is. Rows are "
    "tokens of the prompt.",
    hidden.variables,
    "standard",
)
