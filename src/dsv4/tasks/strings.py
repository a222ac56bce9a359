"""Words and letters: reverse, count, upper case, first and last letter, length, sort."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from dsv4.tasks.checks import Check, Exact, Number
from dsv4.tasks.problem import Ask, Problem, Split, Task, belongs, dialogue, pick_effort
from dsv4.tasks.words import ANIMALS, COMMON, FOODS, THINGS, invent

_NOUNS = sorted({*ANIMALS, *COMMON, *FOODS, *THINGS})

_REVERSE = (
    "Reverse the word {word}.",
    'Write "{word}" backwards.',
    "Spell {word} backwards.",
    'What is "{word}" in reverse?',
    "Turn the word {word} around, letter by letter.",
    "Please reverse: {word}",
    'Give me the letters of "{word}" from last to first.',
    "How do you write {word} from back to front?",
)
_COUNT = (
    "How many times does the letter {letter} appear in {word}?",
    'Count the letter "{letter}" in the word "{word}".',
    "How many {letter}'s are in {word}?",
    'How often does "{letter}" occur in "{word}"?',
    "Count how many {letter} there are in {word}.",
    "In the word {word}, how many letters are {letter}?",
    'Tell me the number of "{letter}" in "{word}".',
    "What is the count of the letter {letter} in the word {word}?",
)
_LENGTH = (
    "How many letters does the word {word} have?",
    'How long is the word "{word}"?',
    "Count the letters of {word}.",
    "How many letters are in {word}?",
    'What is the length of "{word}"?',
    "Tell me how many letters {word} has.",
    'Number of letters in "{word}"?',
    'Of how many letters is "{word}" made?',
)
_UPPER = (
    "Write {word} in capital letters.",
    'Convert "{word}" to upper case.',
    "Make the word {word} uppercase.",
    'Put "{word}" in capitals.',
    "Change {word} to capital letters.",
    'What is "{word}" in upper case?',
    "Please write {word} in all caps.",
    'Uppercase this: "{word}"',
)
_FIRST = (
    "What is the first letter of {word}?",
    'Which letter does "{word}" begin with?',
    "Give me the first letter of the word {word}.",
    'With which letter does the word "{word}" start?',
    "Name the first letter of {word}.",
    'First letter of "{word}"?',
    "What letter comes first in {word}?",
    'The word "{word}" starts with which letter?',
)
_LAST = (
    "What is the last letter of {word}?",
    'Which letter does "{word}" end with?',
    "Give me the last letter of the word {word}.",
    'With which letter does the word "{word}" end?',
    "Name the last letter of {word}.",
    'Last letter of "{word}"?',
    "What letter comes last in {word}?",
    'The word "{word}" ends in which letter?',
)
_SORT = (
    "Sort these words in alphabetical order: {words}",
    "Put these words in alphabetical order: {words}.",
    "Arrange alphabetically: {words}",
    "Sort from A to Z: {words}",
    "Please order these words alphabetically: {words}.",
    "Alphabetical order, please: {words}",
    "List these words from A to Z: {words}.",
    "Can you sort {words} alphabetically?",
)

_Made = tuple[str, str, str, Check]
"""Question, reasoning, answer, check."""


def make(rng: Random, split: Split, ask: Ask) -> Problem:
    """One operation on one word (or several, to be sorted)."""
    level = ask.level or rng.randint(1, 4)
    kind = rng.choice(_KINDS)
    question, reasoning, answer, check = kind(rng, split, level)
    effort = pick_effort(rng, ask)
    if effort == "max":
        reasoning += f"\nCheck: I go through it again and get {answer}."
    return dialogue("strings", question, answer, check, effort=effort, reasoning=reasoning)


def _word(rng: Random, split: Split, level: int) -> str:
    """A word of about 3 letters more with each level, often an invented one."""
    while True:
        real = rng.random() < 0.6
        word = rng.choice(_NOUNS) if real else invent(rng, rng.randint(1, level + 1))
        if 2 * level <= len(word) <= 3 * level + 2 and belongs(word, split):
            return word


def _spelled(word: str) -> str:
    return " ".join(word)


def _reverse(rng: Random, split: Split, level: int) -> _Made:
    word = _word(rng, split, level)
    answer = word[::-1]
    reasoning = f"{word}: {_spelled(word)}\nbackwards: {_spelled(answer)}"
    return rng.choice(_REVERSE).format(word=word), reasoning, answer, Exact((answer,))


def _count(rng: Random, split: Split, level: int) -> _Made:
    word = _word(rng, split, level)
    letter = rng.choice(word) if rng.random() < 0.85 else rng.choice("aeioustrn")
    number, steps = 0, []
    for here in word:
        number += here == letter
        steps.append(f"{here} {number}")
    reasoning = f"{word}: " + ", ".join(steps)
    question = rng.choice(_COUNT).format(word=word, letter=letter)
    return question, reasoning, str(number), Number(number)


def _length(rng: Random, split: Split, level: int) -> _Made:
    word = _word(rng, split, level)
    reasoning = f"{word}: " + ", ".join(f"{here} {i}" for i, here in enumerate(word, 1))
    return rng.choice(_LENGTH).format(word=word), reasoning, str(len(word)), Number(len(word))


def _upper(rng: Random, split: Split, level: int) -> _Made:
    word = _word(rng, split, level)
    answer = word.upper()
    reasoning = f"{word}: {_spelled(word)}\ncapitals: {_spelled(answer)}"
    return rng.choice(_UPPER).format(word=word), reasoning, answer, Exact((answer,), loose=False)


def _first(rng: Random, split: Split, level: int) -> _Made:
    word = _word(rng, split, level)
    reasoning = f"{word}: {_spelled(word)}. The first one is {word[0]}."
    return rng.choice(_FIRST).format(word=word), reasoning, word[0], Exact((word[0],))


def _last(rng: Random, split: Split, level: int) -> _Made:
    word = _word(rng, split, level)
    reasoning = f"{word}: {_spelled(word)}. The last one is {word[-1]}."
    return rng.choice(_LAST).format(word=word), reasoning, word[-1], Exact((word[-1],))


def _sort(rng: Random, split: Split, level: int) -> _Made:
    pool = [word for word in _NOUNS if belongs(word, split)]
    initials: dict[str, str] = {}
    while len(initials) < level + 1:  # different initials: one look decides
        word = rng.choice(pool)
        initials.setdefault(word[0], word)
    words = list(initials.values())
    rng.shuffle(words)
    ordered = sorted(words)
    answer = ", ".join(ordered)
    first = ", ".join(f"{word[0]} {word}" for word in words)
    reasoning = f"First letters: {first}\nIn order: " + " ".join(word[0] for word in ordered)
    return rng.choice(_SORT).format(words=", ".join(words)), reasoning, answer, Exact((answer,))


_KINDS: tuple[Callable[[Random, Split, int], _Made], ...] = (
    _reverse, _count, _length, _upper, _first, _last, _sort,
)  # fmt: skip

TASK = Task("strings", "reverse, count, capitals, first and last letter, sort words", make)
