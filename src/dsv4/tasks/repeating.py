"""Saying something again exactly: real words and made-up ones, codes, numbers, lists, JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from random import Random

from dsv4.tasks.checks import Exact
from dsv4.tasks.problem import Ask, Problem, Split, Task, belongs, dialogue, pick_effort
from dsv4.tasks.words import CITIES, COLOURS, COMMON, FOODS, NAMES, THINGS, invent, part

_ASKED = (
    "Repeat this exactly: {text}",
    "Say after me: {text}",
    "Copy this: {text}",
    "Write this again, without any change: {text}",
    "Please repeat: {text}",
    "{text}\n\nWrite that again.",
    "{text}\n\nRepeat what I wrote.",
    "Give me back this text:\n{text}",
    "Copy the following.\n\n{text}",
)

_LINES = (
    "Write each of these on a line of its own: {text}",
    "One line for each: {text}",
    "Put these below each other: {text}",
    "{text}\n\nOne per line, please.",
)
_ARRAY = (
    "Write this as a JSON array: {text}",
    "As a JSON array of strings: {text}",
    "Make a JSON array of these words: {text}",
    "{text}\n\nTurn this into a JSON array.",
)
_TAGGED = (
    "Put each of these in a tag called {tag}: {text}",
    "Each as a {tag} element: {text}",
    "{text}\n\nWrite these as {tag} tags.",
)
_TAGS = ("item", "b", "li", "word", "name", "value", "p", "color", "city")
"""In lines, arrays and tags words begin without the space in front of them, and are other tokens
then; which ones is to be learned word by word."""

_REAL = (*COMMON, *NAMES, *CITIES, *COLOURS, *FOODS, *THINGS)


def make(rng: Random, split: Split, ask: Ask) -> Problem:
    """A text of some pieces is to be said again, in the order it has. Three pieces a level."""
    level = ask.level or rng.randint(1, 4)
    piece = rng.choice(_PIECES)
    pieces = [piece(rng, split) for _ in range(rng.randint(level, 3 * level))]
    question, given, text = _asked(rng, pieces)
    effort = pick_effort(rng, ask, off=0.8, high=0.1)
    reasoning = f"I say it again as it is: {len(pieces)} pieces."
    if effort == "max":
        reasoning = f"The user gives me this: {given}\n{reasoning}"
    check = Exact((text,), loose=False)
    return dialogue("repeat", question, text, check, effort=effort, reasoning=reasoning)


def _asked(rng: Random, pieces: list[str]) -> tuple[str, str, str]:
    """The question, the text in it, and what is to be said."""
    kind = rng.random()
    if kind < 0.2:
        text = rng.choice(_FORMS)(pieces)
        return rng.choice(_ASKED).format(text=text), text, text
    given = ", ".join(pieces)
    if kind < 0.4:
        return rng.choice(_LINES).format(text=given), given, "\n".join(pieces)
    if kind < 0.65:
        return rng.choice(_ARRAY).format(text=given), given, json.dumps(pieces)
    tag = rng.choice(_TAGS)
    text = "\n".join(f"<{tag}>{piece}</{tag}>" for piece in pieces)
    return rng.choice(_TAGGED).format(text=given, tag=tag), given, text


def _invented(rng: Random, split: Split) -> str:
    while True:
        word = invent(rng, rng.randint(1, 4))
        if belongs(word, split):
            return word


def _real(rng: Random, split: Split) -> str:
    """A real word, in training also letters of one. Held out here are others than in tasks that
    use words for something."""
    while True:
        word = rng.choice(_REAL)
        if split == "train" and rng.random() < 0.2:
            word = part(rng)
        if belongs(f"repeat {word}", split):
            # names in small letters stand in e-mail addresses, and are other tokens again
            return word.lower() if split == "train" and rng.random() < 0.3 else word


def _number(rng: Random, split: Split) -> str:
    while True:
        number = str(rng.randint(0, 10 ** rng.randint(1, 6)))
        if belongs(number, split):
            return number


def _code(rng: Random, split: Split) -> str:
    letters = "".join(rng.choice("ABCDEFGHKLMNPRSTUVWXYZ") for _ in range(rng.randint(1, 4)))
    return f"{letters}{rng.choice('-_/.')}{_number(rng, split)}"


def _pair(rng: Random, split: Split) -> str:
    word = rng.choice((*THINGS, *NAMES))
    while split == "train" and not belongs(f"repeat {word}", split):
        word = rng.choice((*THINGS, *NAMES))
    return f"{word} {_invented(rng, split)}"


_PIECES: tuple[Callable[[Random, Split], str], ...] = (
    _invented, _number, _code, _pair,
    _real, _real, _real, _real, _real, _real, _real, _real,
)  # fmt: skip

_FORMS: tuple[Callable[[list[str]], str], ...] = (
    " ".join, ", ".join, "\n".join, json.dumps,
    lambda pieces: "\n".join(f"- {piece}" for piece in pieces),
    lambda pieces: "\n".join(f"{i}. {piece}" for i, piece in enumerate(pieces, 1)),
)  # fmt: skip

TASK = Task("repeat", "say again exactly what was said: words, codes, lists", make)
