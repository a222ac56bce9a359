"""Converting small records between JSON, CSV and YAML."""

from __future__ import annotations

import json
from collections.abc import Callable
from random import Random
from typing import Any

from dsv4.tasks.checks import Format, Record
from dsv4.tasks.problem import Ask, Problem, Split, Task, dialogue, pick_effort
from dsv4.tasks.words import CITIES, COLOURS, FOODS, JOBS, NAMES, THINGS, choose

_Row = dict[str, Any]
_Draw = Callable[[Random, Split], Any]

_FIELDS: dict[str, _Draw] = {
    "name": lambda rng, split: choose(rng, NAMES, split),
    "city": lambda rng, split: choose(rng, CITIES, split),
    "color": lambda rng, split: choose(rng, COLOURS, split),
    "item": lambda rng, split: choose(rng, THINGS, split),
    "food": lambda rng, split: choose(rng, FOODS, split),
    "job": lambda rng, split: choose(rng, JOBS, split),
    "age": lambda rng, split: rng.randint(1, 99),
    "price": lambda rng, split: rng.randint(1, 500),
    "count": lambda rng, split: rng.randint(0, 99),
    "year": lambda rng, split: rng.randint(1900, 2030),
    "score": lambda rng, split: rng.randint(0, 1000),
    "active": lambda rng, split: rng.random() < 0.5,
    "paid": lambda rng, split: rng.random() < 0.5,
}
_ASKED = (
    "Convert this {source} to {target}:\n{text}",
    "Write the following {source} as {target}.\n{text}",
    "Turn this {source} into {target}:\n{text}",
    "{text}\n\nConvert this to {target}.",
    "Here is some {source}:\n{text}\nPlease give me the same data as {target}.",
    "Change the format from {source} to {target}:\n{text}",
    "What does this {source} look like in {target}?\n{text}",
    "I have this {source}:\n{text}\n\nI need it in {target}.",
    "Rewrite as {target}:\n{text}",
)
_FORMATS: tuple[Format, ...] = ("json", "csv", "yaml")


def make(rng: Random, split: Split, ask: Ask) -> Problem:
    """One to four records. Held out are the words in them."""
    level = ask.level or rng.randint(1, 4)
    keys = rng.sample(list(_FIELDS), min(level + 1, 4))
    if not any(key in ("name", "city", "color", "item", "food", "job") for key in keys):
        keys[0] = rng.choice(("name", "city", "item"))
    rows = [{key: _FIELDS[key](rng, split) for key in keys} for _ in range(rng.randint(1, level))]
    source, target = rng.sample(_FORMATS, 2)
    fits: list[_Row] = rows
    if "csv" in (source, target):  # CSV has no types: digits are numbers, the rest is words
        typed = [key for key in keys if not isinstance(rows[0][key], bool)]
        fits = [{key: row[key] for key in typed} for row in rows]
    question = rng.choice(_ASKED).format(
        source=source.upper(), target=target.upper(), text=write(fits, source)
    )
    count = "one record" if len(fits) == 1 else f"{len(fits)} records"
    reasoning = f"There {'is' if len(fits) == 1 else 'are'} {count} with {', '.join(fits[0])}."
    effort = pick_effort(rng, ask, off=0.7, high=0.2)
    if effort == "max":
        reasoning += f" I keep every value as it is and write {target.upper()}."
    check = Record(tuple(fits), target)
    return dialogue(
        "format", question, write(fits, target), check, effort=effort, reasoning=reasoning
    )


def write(rows: list[_Row], format: Format) -> str:
    """Records as text; a single record of JSON or YAML is not put into a list."""
    if format == "json":
        return json.dumps(rows[0] if len(rows) == 1 else rows)
    if format == "csv":
        lines = [",".join(rows[0])]
        lines += [",".join(_bare(value) for value in row.values()) for row in rows]
        return "\n".join(lines)
    blocks = ["\n".join(f"{key}: {_bare(value)}" for key, value in row.items()) for row in rows]
    if len(rows) == 1:
        return blocks[0]
    return "\n".join("- " + block.replace("\n", "\n  ") for block in blocks)


def _bare(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


TASK = Task("format", "small records from JSON, CSV or YAML into another of them", make)
