"""What a word means, from a small built-in dictionary or from WordNet records."""

from __future__ import annotations

from collections.abc import Mapping
from random import Random
from typing import Any

from dsv4.tasks.checks import Mentions
from dsv4.tasks.lexicon import LEXICON
from dsv4.tasks.problem import Ask, Problem, Split, Task, belongs, dialogue, pick_effort
from dsv4.tasks.words import article

_MEANS = (
    "What does {word} mean?", 'What does "{word}" mean?', "What is the meaning of {word}?",
    "Define {word}.", "Can you explain the word {word}?", 'Tell me what "{word}" means.',
    "What is meant by {word}?", "Give a short definition of {word}.", "Explain {word}.",
    "I do not know the word {word}. What does it mean?",
)  # fmt: skip
_WHAT_IS = ("What is {noun}?", "Tell me what {noun} is.", "Do you know what {noun} is?")
_NAMED = (
    "Which word means: {meaning}?", "What do you call {meaning}?",
    "What is the word for {meaning}?", "Find the word: {meaning}.", "Name this: {meaning}.",
    "I look for a word that means {meaning}.",
    "Which {kind} means {meaning}?", "Guess the word: {meaning}.",
)  # fmt: skip
_MASS = {"bread", "butter", "fire", "honey", "ice", "medicine", "milk", "money", "rain", "salt",
         "snow", "sugar", "summer", "winter", "wool"}  # fmt: skip
_ONLY_ONE = {"sun", "moon"}
_POS = {"n": "noun", "v": "verb", "a": "adjective", "s": "adjective", "r": "adverb"}
_SMALL = {"that", "with", "and", "the", "for", "from", "into", "very", "something", "somebody"}


def make(rng: Random, split: Split, ask: Ask) -> Problem:
    """A word's meaning, or the word for a meaning. Held out are words with their direction."""
    while True:
        word, kind, meaning = _entry(rng, ask.entries)
        named = not ask.entries and rng.random() < 0.3
        if belongs(f"{word} {'named' if named else 'means'}", split):
            break
    effort = pick_effort(rng, ask, off=0.8, high=0.15)
    if named:
        question = rng.choice(_NAMED).format(meaning=meaning, kind=kind)
        reasoning = f'It is {article(kind)}. "{meaning}" is the meaning of {word}.'
        answer, check = f"The word is {word}.", Mentions(((word,),), longest=12)
    else:
        question = rng.choice(_MEANS).format(word=word)
        noun = f"the {word}" if word in _ONLY_ONE else word if word in _MASS else article(word)
        if kind == "noun" and not ask.entries and rng.random() < 0.3:
            question = rng.choice(_WHAT_IS).format(noun=noun)
        answer = _definition(word, kind, meaning, noun)
        reasoning = f"{word} is {article(kind)}. It means: {meaning}."
        check = Mentions(tuple((key,) for key in _telling(meaning)))
    if effort == "max":
        reasoning += " I say it in one short sentence."
    return dialogue("meaning", question, answer, check, effort=effort, reasoning=reasoning)


def _entry(rng: Random, entries: tuple[Mapping[str, Any], ...]) -> tuple[str, str, str]:
    if not entries:
        return rng.choice(LEXICON)
    record = rng.choice(entries)
    return record["words"][0], _POS[record["pos"]], record["definition"]


def _definition(word: str, kind: str, meaning: str, noun: str) -> str:
    """The meaning as a sentence."""
    if kind == "noun" and meaning.startswith(("a ", "an ", "the ")):
        return f"{noun[0].upper()}{noun[1:]} is {meaning}."
    return f"{word.capitalize()} means: {meaning}."


def _telling(meaning: str) -> list[str]:
    """The words that a right definition has to contain."""
    words = {word.strip(",.;:()'’‘\"") for word in meaning.lower().split()}
    return sorted(word for word in words if len(word) > 3 and word not in _SMALL) or [meaning]


TASK = Task("meaning", "what a word means, and which word means something", make)
