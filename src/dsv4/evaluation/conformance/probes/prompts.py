"""Prompts of a wanted length, and values hidden in them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from random import Random

from dsv4.evaluation.conformance.probes.reply import Reply
from dsv4.evaluation.conformance.probes.service import Messages, Service

DIGITS = 4
ROOM = 24
"""Tokens of an answer that says a number."""

_SENTENCES = (
    "The sun was warm and the sky was blue .",
    "A dog ran home to eat some bread .",
    "It was a quiet day in the old town .",
    "The wind was cold and the road was long .",
    "Two boats went down the river at night .",
    "She put the book back on the table .",
    "He said that the rain would come soon .",
    "They made a fire and sat near it .",
)
_NAMES = ("Anna", "Ben", "Clara", "David", "Emma", "Frank", "Grace", "Henry")
_OPEN = (
    "What is a lighthouse?",
    "Tell me a short story about a dog and a boat.",
    "Write a list of five things that one finds in a kitchen.",
    "Why is the sky blue?",
    "Describe a walk in the rain.",
    "What do bees do in the winter?",
    "How does one make bread?",
    "Say something about the sea.",
)
_SO = "so"


def user(text: str) -> Messages:
    return [{"role": "user", "content": text}]


def filler(rng: Random) -> list[str]:
    """Words that say nothing, some thousands, short enough to be one token each."""
    return [word for _ in range(40) for word in " ".join(rng.sample(_SENTENCES, 8)).split()]


def words(rng: Random, count: int) -> str:
    """So many words of filler."""
    base = filler(rng)
    return " ".join((base * (count // len(base) + 1))[:count])


def open_questions(rng: Random, count: int, longest: int) -> list[Messages]:
    """Different questions behind texts of up to `longest` words; the first have none."""
    made = []
    for i in range(count):
        length = longest * i // max(1, count - 1)
        text = f"Text {rng.randint(1000, 9999)} : {words(rng, length)}\n\n" if length else ""
        made.append(user(text + _OPEN[i % len(_OPEN)]))
    return made


@dataclass(frozen=True, slots=True)
class Needle:
    """A value hidden in filler, and the question for it. `deep`: it stands at the beginning, else
    near the end."""

    seed: str
    deep: bool = True

    @property
    def value(self) -> str:
        return str(self._rng.randint(10 ** (DIGITS - 1), 10**DIGITS - 1))

    @property
    def _rng(self) -> Random:
        return Random(self.seed)

    def prompt(self, length: int, start: str) -> Messages:
        """With so many words of filler. `start` makes a beginning that no other prompt has."""
        rng = self._rng
        rng.randint(10 ** (DIGITS - 1), 10**DIGITS - 1)
        name = rng.choice(_NAMES)
        fact = f"The secret number of {name} is {self.value} ."
        text = words(rng, length).split(" ")
        at = min(8, length) if self.deep else max(0, length - 8)
        said = " ".join([*text[:at], fact, *text[at:]])
        return user(f"Text {start} : {said}\n\nWhat is the secret number of {name}?")


def score(reply: Reply, value: str) -> float:
    """How much of a value an answer says: the share of its digits up to the first wrong one."""
    best = 0
    for said in re.findall(r"\d+", f"{reply.reasoning} {reply.content}"):
        right = 0
        while right < min(len(said), len(value)) and said[right] == value[right]:
            right += 1
        best = max(best, right)
    return best / len(value)


class Ruler:
    """How many words make a prompt of so many tokens: counted with the model's vocabulary, else
    learned from what the server counted last."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._more = 45.0
        """Tokens that a prompt has more than words of filler."""

    def prompt(self, needle: Needle, length: int, start: str) -> Messages:
        """A needle's prompt of `length` tokens, as nearly as is known."""
        count = max(0, round(length - self._more))
        made = needle.prompt(count, start)
        for _ in range(8):
            tokens = self._service.count(made)
            if tokens is None or tokens == length:
                break
            a_word = max(1.0, tokens / (count + 40))
            count = max(0, count + round((length - tokens) / a_word))
            made = needle.prompt(count, start)
        return made

    def learn(self, length: int, tokens: int) -> None:
        """A prompt that was to have `length` tokens had `tokens`."""
        self._more += tokens - length
