"""Text to hide facts in: sentences made from templates, or pieces of texts that are given."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from dsv4.tasks.words import (
    ANIMALS,
    COLOURS,
    DAYS,
    FOODS,
    JOBS,
    NAMES,
    PLACES,
    THINGS,
    article,
    plural,
)

_SENTENCES = (
    "The {colour} {animal} slept near the {place}.",
    "On {day}, {name} went to the {place} to buy some {food}.",
    "{name} and {other} talked about the weather for a long time.",
    "Nobody knew why the {thing} was so heavy.",
    "{An_animal} ran across the road and was gone.",
    "The {job} put the {thing} on the table and smiled.",
    "It rained all morning, so {name} stayed in the {place}.",
    "They still had some {food}, and {name} shared with {other}.",
    "The {place} was quiet, and the light was soft.",
    "{name} liked the {colour} {thing} more than the {second} one.",
    "Every {day} the {job} walked past the old {place}.",
    "A small {animal} looked out of the window.",
    "{other} said that the {food} tasted better than before.",
    "In the afternoon the wind grew strong, and the {things} fell over.",
    "The children counted the {things} and laughed.",
    "{name} wanted to become {a_job} one day.",
    "Behind the {place} stood a tall tree with {colour} leaves.",
    "They waited until {day}, but nobody came.",
    "The {job} told a story about {a_colour} {animal}.",
    "After the meal, {name} cleaned the {thing} with care.",
    "Two {animals} drank from the little stream.",
    "{name} could not find the {thing} and asked {other} for help.",
    "The road to the {place} was long and full of stones.",
    "At night the {place} was lit by a single lamp.",
)


def sentences(rng: Random) -> Iterator[str]:
    """Made-up sentences without end."""
    while True:
        animal, thing = rng.choice(ANIMALS), rng.choice(THINGS)
        colour, second = rng.sample(COLOURS, 2)
        name, other = rng.sample(NAMES, 2)
        yield rng.choice(_SENTENCES).format(
            animal=animal, An_animal=article(animal).capitalize(), animals=plural(animal),
            a_colour=article(colour),
            thing=thing, things=plural(thing), colour=colour, second=second, name=name,
            other=other, day=rng.choice(DAYS), place=rng.choice(PLACES), food=rng.choice(FOODS),
            job=(job := rng.choice(JOBS)), a_job=article(job),
        )  # fmt: skip


def pieces(rng: Random, texts: tuple[str, ...]) -> Iterator[str]:
    """Paragraphs of the texts in order, from a random place, over and over."""
    paragraphs = [part.strip() for text in texts for part in text.split("\n") if part.strip()]
    at = rng.randrange(len(paragraphs))
    while True:
        yield paragraphs[at % len(paragraphs)]
        at += 1


def hide(rng: Random, facts: list[str], words: int, texts: tuple[str, ...] = ()) -> str:
    """About `words` words of filler with the facts at random places in it, in their order."""
    source = pieces(rng, texts) if any(text.strip() for text in texts) else sentences(rng)
    filler: list[str] = []
    count = sum(len(fact.split()) for fact in facts)
    while count < words:
        piece = next(source).split()
        if texts:  # a paragraph may be longer than what is missing
            piece = piece[: words - count]
        filler.append(" ".join(piece))
        count += len(piece)
    places = sorted(rng.randint(0, len(filler)) for _ in facts)
    for place, fact in reversed(list(zip(places, facts, strict=True))):
        filler.insert(place, fact)
    return ("\n" if texts else " ").join(filler)
