"""Invented tools: an action on an object, with typed parameters, and requests that use them.

A tool is called after its verb and noun; which (verb, noun) pairs are held out is decided by
hash, so that evaluation meets names that no training problem had.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from dsv4.tasks.problem import Split, belongs
from dsv4.tasks.words import (
    CITIES,
    COLOURS,
    DAYS,
    FOODS,
    NAMES,
    THINGS,
    article,
    invent,
    listed,
    varied,
)

_VERBS = tuple(
    """book cancel find check update order create delete send open close start stop move copy
    rename share print save load play pause schedule track repair rent buy sell reserve confirm
    count measure list describe compare convert translate review approve archive clean collect
    deliver inspect label lock unlock mark pack pick register report return search sort store
    test upload download water paint feed wash""".split()
)
_NOUNS = tuple(
    """table room ticket hotel flight train taxi car bike boat song album playlist movie photo
    video file folder document letter message email note reminder alarm timer meeting event
    appointment invoice order parcel package product recipe meal pizza coffee book lesson course
    exam report form contract account ticket task project garden lamp heater door window camera
    sensor robot printer machine engine battery tower bridge ship cabin museum concert game match
    team player score medal jacket basket blanket garden pump tank oven""".split()
)


@dataclass(frozen=True)
class Slot:
    """A kind of parameter.

    names: what tools call it. kind, about: its JSON type and description in the schema. said:
    ways to say the value in a request, with {value}. draw: a value.
    """

    names: str
    kind: str
    about: str
    said: tuple[str, ...]
    draw: Callable[[Random, Split], Any]

    @property
    def schema(self) -> dict[str, Any]:
        """The parameter in a JSON schema."""
        items = {"items": {"type": "string"}} if self.kind == "array" else {}
        return {"type": self.kind, **items, "description": self.about}


@dataclass(frozen=True)
class Tool:
    """A tool with its parameters by name; `required` of them, from the first, are always given."""

    name: str
    about: str
    verb: str
    noun: str
    slots: Mapping[str, Slot]
    required: int

    @property
    def function(self) -> Mapping[str, Any]:
        """The function object that the prompt shows."""
        return {
            "name": self.name,
            "description": self.about,
            "parameters": {
                "type": "object",
                "properties": {key: slot.schema for key, slot in self.slots.items()},
                "required": list(self.slots)[: self.required],
            },
        }


def _code(rng: Random, split: Split) -> str:
    letters = "".join(rng.choice("ABCDEFGHKLMNPRSTUVWXYZ") for _ in range(rng.randint(1, 3)))
    return f"{letters}-{rng.randint(10, 9999)}"


def _mail(rng: Random, split: Split) -> str:
    host = rng.choice(("example.com", "example.org", "mail.example"))
    who = varied(rng, NAMES, split).lower()
    if split == "train" and rng.random() < 0.4:
        who += rng.choice(("", ".", "-", "_")) + varied(rng, NAMES, split).lower()
    return f"{who}{rng.choice(('', rng.randint(1, 99)))}@{host}"


def _text(rng: Random, split: Split) -> str:
    thing = rng.choice(THINGS)
    where = rng.choice(("at the door", "by the window", "next week", "before noon", "after lunch"))
    return rng.choice(
        (f"bring the {thing} {where}", f"the {thing} is ready", f"please call me {where}",
         f"do not forget the {thing}", f"leave it {where}", f"we need one more {thing}")
    )  # fmt: skip


def _some(words: tuple[str, ...]) -> Callable[[Random, Split], list[str]]:
    def draw(rng: Random, split: Split) -> list[str]:
        some = rng.sample(words, rng.randint(2, 3))
        if split == "heldout":
            return some
        return [varied(rng, words, split) if rng.random() < 0.4 else word for word in some]

    return draw


_SLOTS = (
    Slot("city location town place", "string", "Name of the city",
         ("in {value}", "in the city of {value}", "located in {value}"),
         lambda rng, split: varied(rng, CITIES, split)),
    Slot("day weekday on_day", "string", "Day of the week",
         ("on {value}", "for {value}", "this {value}"), lambda rng, split: rng.choice(DAYS)),
    Slot("time start_time at_time hour", "string", "Time of day, HH:MM",
         ("at {value}", "for {value}"),
         lambda rng, split: f"{rng.randint(6, 22):02}:{rng.choice(('00', '15', '30', '45'))}"),
    Slot("name person customer owner", "string", "Name of the person",
         ("for {value}", "under the name {value}", "in the name of {value}"),
         lambda rng, split: varied(rng, NAMES, split)),
    Slot("code reference id number", "string", "Reference code",
         ("with the code {value}", "with reference {value}", "number {value}"), _code),
    Slot("email address contact mail", "string", "E-mail address",
         ("with the address {value}", "and use the email {value}"), _mail),
    Slot("color colour shade", "string", "Colour",
         ("in {value}", "in the colour {value}", "with colour {value}"),
         lambda rng, split: varied(rng, COLOURS, split)),
    Slot("note text message comment", "string", "Text of the note",
         ('with the note "{value}"', 'saying "{value}"', 'and add the text "{value}"'), _text),
    Slot("count amount quantity times", "integer", "How many",
         ("with a count of {value}", "and the count is {value}", "{value} times"),
         lambda rng, split: rng.randint(2, 99)),
    Slot("guests people persons party_size", "integer", "Number of people",
         ("for {value} people", "for {value} guests", "with {value} guests"),
         lambda rng, split: rng.randint(2, 40)),
    Slot("price max_price budget limit", "number", "Price limit",
         ("for at most {value} euros", "with a price of {value}", "up to {value} dollars"),
         lambda rng, split: rng.choice((rng.randint(5, 900), rng.randint(50, 9990) / 10))),
    Slot("minutes duration length", "integer", "Length in minutes",
         ("for {value} minutes", "with a length of {value} minutes", "lasting {value} minutes"),
         lambda rng, split: rng.randint(5, 240)),
    Slot("level strength intensity", "integer", "Level from 1 to 10",
         ("at level {value}", "with level {value}", "on level {value}"),
         lambda rng, split: rng.randint(1, 10)),
    Slot("urgent priority express", "boolean", "Whether it is urgent",
         ("(urgent: {value})", "and set urgent to {value}", "with urgent {value}"),
         lambda rng, split: rng.random() < 0.5),
    Slot("private hidden secret", "boolean", "Whether only the owner can see it",
         ("(private: {value})", "and set private to {value}", "with private {value}"),
         lambda rng, split: rng.random() < 0.5),
    Slot("tags labels keywords", "array", "Tags",
         ("with the tags {value}", "tagged {value}", "and tag it {value}"), _some(THINGS)),
    Slot("items contents parts", "array", "Things to include",
         ("with {value}", "including {value}", "containing {value}"), _some(FOODS)),
)  # fmt: skip

_SWITCHES = tuple(slot for slot in _SLOTS if slot.kind == "boolean")

_STARTS = (
    "{verb} {a_noun}", "Please {verb} {a_noun}", "Can you {verb} {a_noun}",
    "Could you {verb} {a_noun}", "I want to {verb} {a_noun}", "I need you to {verb} {a_noun}",
    "I would like to {verb} {a_noun}", "Let's {verb} {a_noun}", "Help me {verb} {a_noun}",
    "{verb} the {noun}", "Please {verb} the {noun}", "Would you {verb} my {noun}",
    "It is time to {verb} the {noun}", "Go and {verb} {a_noun}",
)  # fmt: skip
_ABOUT = ("{Verb} {a_noun}.", "{Verb} {a_noun}.", "Use this to {verb} {a_noun}.",
          "A tool to {verb} {a_noun}.", "{Verb} {a_noun} for the user.")  # fmt: skip
_QUESTIONS = ("Can", "Could", "Would")


def draw_tools(rng: Random, split: Split, count: int) -> list[Tool]:
    """`count` tools of a split with different verbs and nouns."""
    tools: list[Tool] = []
    while len(tools) < count:
        verb, noun = rng.choice(_VERBS), rng.choice(_NOUNS)
        known = {word for tool in tools for word in (tool.verb, tool.noun)}
        if belongs(f"{verb}_{noun}", split) and not {verb, noun} & known and verb != noun:
            tools.append(_tool(rng, split, verb, noun, tools))
    return tools


def _tool(rng: Random, split: Split, verb: str, noun: str, others: Sequence[Tool]) -> Tool:
    style = rng.random()
    name = f"{verb}_{noun}"
    if style > 0.85:
        name = f"{verb}{noun.capitalize()}"
    drawn = rng.sample(_SLOTS, rng.randint(1, 4))
    if split == "train" and rng.random() < 0.15:
        drawn = [*(slot for slot in drawn[:2] if slot not in _SWITCHES), *_SWITCHES]
        rng.shuffle(drawn)
    if split == "train" and others and rng.random() < 0.5:
        drawn = _alike(rng, drawn, rng.choice(others))
    slots = {_parameter(rng, split, slot, noun): slot for slot in drawn}
    about = rng.choice(_ABOUT).format(verb=verb, Verb=verb.capitalize(), a_noun=article(noun))
    return Tool(name, about, verb, noun, slots, rng.randint(1, len(slots)))


def _alike(rng: Random, drawn: list[Slot], other: Tool) -> list[Slot]:
    """As many kinds of parameters, those of another tool first: only the schema tells then which
    of the two tools calls them what."""
    shared = rng.sample(list(other.slots.values()), len(other.slots))
    alike = list(dict.fromkeys([*shared, *drawn]))[: max(len(drawn), 2)]
    return rng.sample(alike, len(alike))


def _parameter(rng: Random, split: Split, slot: Slot, noun: str) -> str:
    """What a tool calls a parameter; in training sometimes as no other tool does, by a word that
    says nothing of it or is none, so that names are learned to be looked up."""
    name = rng.choice(slot.names.split())
    known = 1.0 if split == "heldout" else rng.random()
    if known > 0.15:
        return name
    other = rng.choice(_NOUNS) if known < 0.05 else invent(rng, 2)
    return rng.choice((f"{noun}_{name}", f"{name}_{other}", f"{other}{name.capitalize()}", other))


def draw_arguments(rng: Random, split: Split, tool: Tool) -> dict[str, Any]:
    """Values for the required and some of the other parameters, in the order of the schema."""
    return {
        key: slot.draw(rng, split)
        for i, (key, slot) in enumerate(tool.slots.items())
        if i < tool.required or rng.random() < 0.5
    }


def request(rng: Random, tool: Tool, arguments: Mapping[str, Any]) -> str:
    """A sentence that asks for the call, every value spelled as it goes into the arguments."""
    start = rng.choice(_STARTS).format(verb=tool.verb, noun=tool.noun, a_noun=article(tool.noun))
    said = [
        rng.choice(tool.slots[key].said).format(value=_spoken(value))
        for key, value in arguments.items()
    ]
    if rng.random() < 0.3:
        rng.shuffle(said)
    end = "?" if start.startswith(_QUESTIONS) else "."
    return f"{start[0].upper()}{start[1:]} {' '.join(said)}{end}"


def _spoken(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return listed(value) if isinstance(value, list) else str(value)
