"""Questions and true answers about a country, from a record of the World Factbook.

Only what the record says plainly is used; a fact in an unusual form is left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from random import Random
from typing import Any

from dsv4.data.documents import Document, Text, exchange

_REGION = re.compile(r"(?:interior )?([A-Z][a-z]+(?: (?:and )?[A-Z][a-z]+)*)")
_PLAIN = re.compile(r"[^\W\d_][^\d;:,()]*")
_PEAK = re.compile(r"([A-Z][^\d;:,()]*?),? ([\d,]+) m")
_CURRENCY = re.compile(r"([^\d;:()]+) \([A-Z]{3}\) per US dollar.*")
_BORDER = re.compile(r"\s*([^\d;:()]+?) (?:\([^)]*\) )?[\d,.]+ km(?: \([^)]*\))?")
_LANGUAGE = re.compile(r"([A-Z][a-z]+) (?:[\d.]+% )?\(official\).*")
_WITH_THE = {"Netherlands", "Philippines", "Maldives", "Comoros", "Seychelles", "Middle East",
             "Caribbean", "United States", "United Kingdom", "US", "UK", "UAE"}  # fmt: skip

_Fact = tuple[tuple[str, ...], str]
"""Questions that mean the same, and the answer."""


def country_documents(record: Mapping[str, Any]) -> Iterator[Document]:
    """A short text about a country, and one exchange per fact."""
    facts = record["facts"]
    name = _get(facts, "Government", "Country name", "conventional short form")
    if name is None or not _PLAIN.fullmatch(name) or name == "none":
        return
    known = list(_facts(_the(name), facts))
    if not known:
        return
    rng = Random(name)
    yield Text(" ".join(_start(answer.removeprefix("No, ")) for _, answer in known))
    for questions, answer in known:
        yield exchange(rng.choice(questions), answer)


def _facts(name: str, facts: Mapping[str, Any]) -> Iterator[_Fact]:
    capital = _get(facts, "Government", "Capital", "name")
    if capital and _PLAIN.fullmatch(capital):
        yield (
            (f"What is the capital of {name}?", f"Name the capital of {name}.",
             f"Which city is the capital of {name}?", f"Do you know the capital of {name}?"),
            f"The capital of {name} is {capital}.",
        )  # fmt: skip
    start = _start(name)
    are = "are" if name.startswith("the ") and name.endswith("s") else "is"
    location = _get(facts, "Geography", "Location")
    region = _REGION.fullmatch(location.split(",")[0]) if location else None
    if region:
        yield (
            (f"Where {are} {name}?", f"In which part of the world {are} {name}?",
             f"Where can I find {name} on a map?"),
            f"{start} {are} in {_the(region.group(1))}.",
        )  # fmt: skip
    borders = _get(facts, "Geography", "Land boundaries", "border countries")
    found = [_BORDER.fullmatch(part) for part in re.split(r"[;,] (?=\D)", borders or "")]
    neighbours = [match.group(1) for match in found if match]
    if neighbours and len(neighbours) == len(found):
        yield (
            (f"Which countries border {name}?", f"What are the neighbours of {name}?",
             f"Which countries are next to {name}?"),
            f"{start} {'share' if are == 'are' else 'shares'} a border with {_list(neighbours)}.",
        )  # fmt: skip
    if "landlocked" in (_get(facts, "Geography", "Coastline") or ""):
        yield (
            (f"Does {name} lie by the ocean?", f"Does {name} have a coast on an ocean?"),
            f"No, {name} {'have' if are == 'are' else 'has'} no coast on an ocean.",
        )
    currency = _CURRENCY.fullmatch(_get(facts, "Economy", "Exchange rates", "Currency") or "")
    if currency:
        yield (
            (f"What is the currency of {name}?", f"How do people pay in {name}?",
             f"Which money is used in {name}?"),
            f"In {name} people pay with {currency.group(1)}.",
        )  # fmt: skip
    peak = _PEAK.fullmatch(_get(facts, "Geography", "Elevation", "highest point") or "")
    if peak:
        yield (
            (f"What is the highest point of {name}?", f"Which place in {name} is the highest?"),
            f"The highest point of {name} is {peak.group(1)}, at {peak.group(2)} metres.",
        )
    spoken = _get(facts, "People and Society", "Languages", "Languages")
    language = _LANGUAGE.match(spoken) if spoken else None
    if language:
        yield (
            (f"Which language do people speak in {name}?",
             f"What is an official language of {name}?"),
            f"{language.group(1)} is an official language of {name}.",
        )  # fmt: skip
    colours = _get(facts, "Government", "National color(s)")
    if colours and re.fullmatch(r"[a-z]+(, [a-z]+)*", colours):
        listed = colours.split(", ")
        noun, verb = ("colour", "is") if len(listed) == 1 else ("colours", "are")
        yield (
            (f"What are the national colours of {name}?", f"Which colours stand for {name}?"),
            f"The national {noun} of {name} {verb} {_list(listed)}.",
        )


def _get(value: Any, *path: str) -> str | None:
    """Text at a path of nested objects."""
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value.strip() if isinstance(value, str) else None


def _the(name: str) -> str:
    """A name as it stands in a sentence."""
    if name.startswith("The "):
        return "the " + name[4:]
    if name.startswith(("Republic of", "Democratic Republic of")):
        return "the " + name
    return f"the {name}" if name in _WITH_THE or name.endswith(("Islands", "Republic")) else name


def _start(name: str) -> str:
    return name[0].upper() + name[1:]


def _list(words: list[str]) -> str:
    named = [_the(word) for word in words]
    return named[0] if len(named) == 1 else ", ".join(named[:-1]) + " and " + named[-1]
