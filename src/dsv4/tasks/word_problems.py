"""Small word problems: one or two steps with small numbers, told as a story."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from dsv4.tasks.arithmetic import work
from dsv4.tasks.checks import Number
from dsv4.tasks.problem import Ask, Problem, Split, Task, belongs, dialogue, pick_effort
from dsv4.tasks.words import NAMES, PLACES, THINGS, plural


@dataclass(frozen=True)
class _Step:
    """Something that happens to a number of things: how it is told, what it does to them."""

    told: tuple[str, ...]
    sign: str


_STARTS = (
    "{name} has {a} {things}.",
    "There are {a} {things} in the {place}.",
    "{name} found {a} {things} in the {place}.",
    "A box holds {a} {things}.",
    "{name} collected {a} {things}.",
    "{name} starts the day with {a} {things}.",
    "On the table are {a} {things}.",
    "{name} counted {a} {things}.",
)
_MORE = _Step(
    (
        "{other} brings {b} more.",
        "Then {b} more are added.",
        "After that, {other} gives {b} {things} as a gift.",
        "Another {b} {things} arrive.",
        "{other} puts {b} more {things} there.",
        "Later {b} new {things} come along.",
        "{other} finds {b} more of them.",
        "Then {other} adds {b} of them.",
    ),
    "+",
)
_LESS = _Step(
    (
        "{other} takes {b} away.",
        "Then {b} of them are lost.",
        "{b} {things} are given to {other}.",
        "After that, {b} of them break.",
        "{other} buys {b} of the {things}.",
        "Then {b} {things} fall into the water and are gone.",
        "{other} borrows {b} of them.",
        "Later {b} are sold.",
    ),
    "-",
)
_TIMES = _Step(
    (
        "{other} has {b} times as many. How many {things} does {other} have?",
        "There are {b} times as many in the {room}. How many {things} are in the {room}?",
        "In the end there are {b} times as many {things}. How many is that?",
        "{b} people have just as many each. How many {things} do these {b} people have together?",
        "If there were {b} times as many, how many {things} would that be?",
        "{b} bags hold the same number each. How many {things} are in the {b} bags?",
        "{other} wants {b} times that number. How many {things} does {other} want?",
        "There are {b} boxes with the same number in each. How many {things} do the boxes hold?",
    ),
    "*",
)
_ASKED = (
    "How many {things} are there now?",
    "How many {things} are there in the end?",
    "What is the number of {things} now?",
    "Can you say how many {things} there are now?",
    "How many {things} does that make?",
    "So how many {things} are there?",
    "Tell me the number of {things} at the end.",
)
_LEFT = "How many {things} are left?"
_WORDS = {"+": "more", "-": "less", "*": "times as many"}
_ANSWERS = ("{n}", "{n} {things}", "There are {n} {things}.", "The answer is {n}.")


def make(rng: Random, split: Split, ask: Ask) -> Problem:
    """A story about things that get more or fewer. Held out are combinations of numbers."""
    level = ask.level or rng.randint(1, 4)
    while True:
        numbers, steps = _draw(rng, level)
        key = f"story {numbers} {[step.sign for step in steps]}"
        if belongs(key, split):
            break
    name, other = rng.sample(NAMES, 2)
    thing = rng.choice(THINGS)
    place, room = rng.sample(PLACES, 2)
    words = {"name": name, "other": other, "things": plural(thing), "place": place, "room": room}
    told = [rng.choice(_STARTS).format(a=numbers[0], **words)]
    for step, number in zip(steps, numbers[1:], strict=True):
        told.append(rng.choice(step.told).format(b=number, **words))
    if steps[-1].sign != "*":
        left = steps[-1].sign == "-" and rng.random() < 0.5
        told.append((_LEFT if left else rng.choice(_ASKED)).format(**words))
    signs = [step.sign for step in steps]
    worked = work(numbers, signs)
    value = int(worked.rsplit("= ", 1)[1])
    first = f"At first there are {numbers[0]} {words['things']}, then"
    events = [f"{number} {_WORDS[sign]}" for sign, number in zip(signs, numbers[1:], strict=True)]
    reasoning = f"{first} {' and '.join(events)}.\n{worked}"
    effort = pick_effort(rng, ask, off=0.35, high=0.45)
    if effort == "max":
        reasoning += f"\nCheck: the question is how many there are then. There are {value}."
    answers = _ANSWERS if value != 1 else (_ANSWERS[0], _ANSWERS[3])  # not "1 balls"
    content = rng.choice(answers).format(n=value, **words)
    return dialogue(
        "word_problem", " ".join(told), content, Number(value), effort=effort, reasoning=reasoning
    )


def _draw(rng: Random, level: int) -> tuple[list[int], list[_Step]]:
    """Numbers (at least 2, never fewer than none left) and what happens."""
    most = (10, 30, 100, 1000)[level - 1]
    if rng.random() < 0.25:
        return [rng.randint(2, min(most, 40)), rng.randint(2, 9)], [_TIMES]
    numbers, steps = [rng.randint(3, most)], []
    value = numbers[0]
    for _ in range(1 if level == 1 else rng.choice((1, 2))):
        step = rng.choice((_MORE, _LESS)) if value > 4 else _MORE
        number = rng.randint(2, value - 1 if step is _LESS else most)
        value += number if step is _MORE else -number
        numbers.append(number)
        steps.append(step)
    return numbers, steps


TASK = Task("word_problem", "small word problems of one or two steps", make)
