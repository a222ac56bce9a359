"""Who is where: people walk about and carry things, then one place is asked for."""

from __future__ import annotations

from random import Random

from dsv4.tasks.checks import Mentions
from dsv4.tasks.problem import Ask, Problem, Split, Task, belongs, dialogue, pick_effort
from dsv4.tasks.words import NAMES, PLACES, THINGS

_MOVES = (
    "{name} goes to the {place}.",
    "{name} walks to the {place}.",
    "{name} moves to the {place}.",
    "{name} runs to the {place}.",
    "Then {name} goes into the {place}.",
    "After that {name} walks over to the {place}.",
    "{name} travels to the {place}.",
)
_TAKES = (
    "{name} picks up the {thing}.",
    "{name} takes the {thing}.",
    "{name} grabs the {thing}.",
    "{name} gets the {thing}.",
)
_DROPS = (
    "{name} puts down the {thing}.",
    "{name} drops the {thing}.",
    "{name} leaves the {thing} there.",
    "{name} lets go of the {thing}.",
)
_WHERE = (
    "Where is {what}?",
    "Where is {what} now?",
    "In which place is {what}?",
    "Can you tell me where {what} is?",
    "Where can I find {what}?",
    "At the end, where is {what}?",
    "Tell me where {what} is.",
    "So where is {what}?",
)


def make(rng: Random, split: Split, ask: Ask) -> Problem:
    """A few moves and a question. Held out are pairs of the one asked for and its place."""
    level = ask.level or rng.randint(1, 4)
    while True:
        told, notes, what, place = _story(rng, level)
        if belongs(f"{what} {place}", split):
            break
    question = rng.choice(_WHERE).format(what=what)
    effort = pick_effort(rng, ask)
    reasoning = " ".join(notes)
    if effort == "max":
        reasoning += f" Nothing after that moves {what}, so the answer is the {place}."
    content = rng.choice((f"{what} is in the {place}.", f"In the {place}.", f"the {place}"))
    content = content[0].upper() + content[1:]
    check = Mentions(((place,),), tuple(p for p in PLACES if p != place), longest=15)
    return dialogue(
        "whereabouts", f"{' '.join(told)} {question}", content, check,
        effort=effort, reasoning=reasoning,
    )  # fmt: skip


def _story(rng: Random, level: int) -> tuple[list[str], list[str], str, str]:
    """Sentences, the moves that matter, who or what is asked for, and its place."""
    people = rng.sample(NAMES, min(4, level + 1))
    rooms = rng.sample(PLACES, min(6, level + 2))
    place: dict[str, str] = {}
    holder: dict[str, str] = {}  # of a thing
    lies: dict[str, str] = {}
    told: list[str] = []
    history: dict[str, list[str]] = {}  # what was noted about each person or thing
    for name in people:
        _move(rng, name, rooms, place, told, history)
    things = rng.sample(THINGS, 2) if level > 1 else []
    for _ in range(2 * level):
        name = rng.choice(people)
        free = [t for t in things if t not in holder and lies.get(t, place[name]) == place[name]]
        held = [t for t, owner in holder.items() if owner == name]
        draw = rng.random()
        if draw < 0.3 and free:
            thing = rng.choice(free)
            holder[thing] = name
            lies.pop(thing, None)
            told.append(rng.choice(_TAKES).format(name=name, thing=thing))
            history[thing] = [f"{name} has the {thing}."]
        elif draw < 0.4 and held:
            thing = rng.choice(held)
            del holder[thing]
            lies[thing] = place[name]
            told.append(rng.choice(_DROPS).format(name=name, thing=thing))
            history[thing] = [f"{name} left the {thing} in the {place[name]}."]
        else:
            _move(rng, name, rooms, place, told, history)
    known = [*holder, *lies]
    if known and rng.random() < 0.6:
        thing = rng.choice(known)
        if thing in holder:
            owner = holder[thing]
            notes = [*history[thing], *history[owner]]
            return told, notes, f"the {thing}", place[owner]
        return told, history[thing], f"the {thing}", lies[thing]
    name = rng.choice(people)
    return told, history[name], name, place[name]


def _move(
    rng: Random,
    name: str,
    rooms: list[str],
    place: dict[str, str],
    told: list[str],
    history: dict[str, list[str]],
) -> None:
    room = rng.choice([room for room in rooms if room != place.get(name)])
    moves = _MOVES[:4] if name not in place else _MOVES
    place[name] = room
    told.append(rng.choice(moves).format(name=name, place=room))
    history[name] = [f"{name} is in the {room}."]


TASK = Task("whereabouts", "people walk about with things: who or what is where?", make)
