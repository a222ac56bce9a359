"""Other words for the request that a story answers: by what the story is about.

Collections ask for a story by its title. People ask for one about somebody or something, so a
model that only knows titles does not know what they want.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from random import Random

from dsv4.data.documents import Conversation, Document
from dsv4.encoding.messages import Message

ANIMALS = frozenset(
    "ant bear bee bird bunny butterfly cat caterpillar chicken cow crab deer dog dolphin donkey "
    "dragon duck eagle elephant fish fox frog giraffe goat hedgehog hen horse kitten lamb lion "
    "mole monkey mouse octopus owl penguin pig pony puppy rabbit raven robin seal sheep snail "
    "spider squirrel swan tiger turtle unicorn whale wolf".split()
)
THINGS = frozenset(
    "apple balloon boat book bridge cake castle cloud clock crown door dream fairy farm flower "
    "forest garden giant ghost island key king kite knight lake lantern lighthouse map mirror "
    "moon mountain ocean pirate princess queen rainbow river robot sailor school ship sky snow "
    "snowman star storm sun train treasure tree village violin wind witch wizard".split()
)
PEOPLE = frozenset("baby boy brother child girl grandfather grandmother sister teacher".split())

_ONE = (
    "Tell me a story about {topic}.", "Can you tell me a short story about {topic}?",
    "Write a short story about {topic}.", "Please write a story about {topic}.",
    "I would like to hear a story about {topic}.", "Make up a story about {topic}.",
    "Tell me a bedtime story about {topic}.", "Do you know a story about {topic}?",
    "A story about {topic}, please.", "Could you write me a tale about {topic}?",
)  # fmt: skip
_ANY = (
    "Tell me a story.", "Can you tell me a short story?", "Write a short story.",
    "Please tell me a bedtime story.", "I want to hear a story.", "Tell me a tale.",
)  # fmt: skip
_WORD = re.compile(r"[A-Za-z]+")
_ADJECTIVE = ("little ", "small ", "old ", "young ", "brave ", "")


def retold(document: Document) -> Document:
    """The same story, asked for in other words; other documents as they are."""
    if not isinstance(document, Conversation) or len(document.messages) != 2:
        return document
    request, story = document.messages
    rng = Random(story.content)
    found = topics(story.content)
    asked = rng.choice(_ONE).format(topic=_named(rng, found)) if found else rng.choice(_ANY)
    return replace(document, messages=(Message("user", asked), story))


def topics(story: str) -> list[str]:
    """Animals, things and people that a story keeps speaking of, most often named first."""
    counts = Counter(word.lower() for word in _WORD.findall(story))
    known = ((counts[word] + counts[word + "s"], word) for word in ANIMALS | THINGS | PEOPLE)
    return [word for count, word in sorted(known, key=lambda c: (-c[0], c[1])) if count >= 3][:3]


def _named(rng: Random, found: list[str]) -> str:
    first = _article(rng, found[0])
    if len(found) > 1 and rng.random() < 0.4:
        return f"{first} and {_article(rng, found[1])}"
    return first


def _article(rng: Random, word: str) -> str:
    if word in ("sun", "moon", "sky", "ocean", "wind", "snow"):
        return f"the {word}"
    said = (rng.choice(_ADJECTIVE) if rng.random() < 0.4 else "") + word
    return f"an {said}" if said[0] in "aeiou" else f"a {said}"
