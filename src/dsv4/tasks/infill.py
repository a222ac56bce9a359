"""Fill in the middle: small Python functions and sentences with a hole."""

from __future__ import annotations

from random import Random

from dsv4.encoding.events import Reply
from dsv4.tasks.checks import Code
from dsv4.tasks.filler import sentences
from dsv4.tasks.problem import Ask, Gap, Problem, Split, Task, belongs

_NAMES = ("add", "total", "count", "find", "check", "compute", "get", "make", "sum_up",
          "measure", "update", "collect", "build", "scale", "merge", "select")  # fmt: skip
_OF = ("values", "items", "numbers", "prices", "words", "scores", "points", "rows", "names",
       "lengths", "weights", "ages", "costs", "marks", "parts", "sizes")  # fmt: skip
_ONE = {"values": "value", "items": "item", "numbers": "number", "prices": "price",
        "words": "word", "scores": "score", "points": "point", "rows": "row", "names": "name",
        "lengths": "length", "weights": "weight", "ages": "age", "costs": "cost",
        "marks": "mark", "parts": "part", "sizes": "size"}  # fmt: skip
_VARIABLES = ("a", "b", "x", "y", "left", "right", "first", "second", "width", "height")

# The parts between bars are what may be taken out; the rest says what has to stand there.
_FUNCTIONS = (
    'def {f}_{xs}({xs}):\n    """The sum of the {xs}."""\n    result = 0\n    for {x} in {xs}:\n'
    "        |result += {x}|\n    return result\n",
    'def {f}_{xs}({xs}, limit):\n    """The {xs} {than} the limit."""\n'
    "    return [{x} for {x} in {xs} |if {x} {op} limit|]\n",
    'def {f}({a}, {b}):\n    """Return {a} {word} {b}."""\n    |return {a} {sign} {b}|\n',
    'def {f}_{xs}({xs}):\n    """Count the {xs} {than} {n}."""\n    count = 0\n'
    "    for {x} in {xs}:\n        |if {x} {op} {n}:|\n            count += 1\n    return count\n",
    "def largest_{x}({xs}):\n    best = {xs}[0]\n    for {x} in {xs}:\n        |if {x} > best:|\n"
    "            best = {x}\n    return best\n",
    "def smallest_{x}({xs}):\n    best = {xs}[0]\n    for {x} in {xs}:\n        if {x} < best:\n"
    "            |best = {x}|\n    return best\n",
    'def {f}_{xs}({xs}):\n    """Every one of the {xs} {word} {n}."""\n    result = []\n'
    "    for {x} in {xs}:\n        |result.append({x} {sign} {n})|\n    return result\n",
    "def {f}_{xs}({xs}):\n    |result = []|\n    for {x} in {xs}:\n"
    "        result.append({x} {sign} {n})\n    return result\n",
    'def {f}({a}, {b}):\n    """The larger one of {a} and {b}."""\n    if {a} > {b}:\n'
    "        |return {a}|\n    return {b}\n",
    "def {f}_{xs}({xs}):\n    |for {x} in {xs}:|\n        print({x})\n",
    "class {X}:\n    def __init__(self, {a}, {b}):\n        self.{a} = {a}\n"
    "        |self.{b} = {b}|\n",
    'def is_{x}_known({x}, {xs}):\n    """Whether {x} is in {xs}."""\n    |return {x} in {xs}|\n',
    'def {f}_{xs}({xs}):\n    """How often each {x} comes."""\n    table = {{}}\n'
    "    for {x} in {xs}:\n        |table[{x}] = table.get({x}, 0) + 1|\n    return table\n",
    'def {f}_{xs}({xs}):\n    """The mean, None if there are no {xs}."""\n    |if not {xs}:|\n'
    "        return None\n    return sum({xs}) / len({xs})\n",
    "def test_{f}():\n    {a} = {n}\n    {b} = {a} {sign} {n}\n"
    "    |assert {b} == {n} {sign} {n}|\n",
)
_SIGNS = {"+": "plus", "-": "minus", "*": "times"}
_ORDERS = {"<": "below", ">": "above"}


def make(rng: Random, split: Split, ask: Ask) -> Problem:
    """A gap in code or, a third of the time, in a few sentences (of the given texts, if any).

    Held out are texts as a whole. A sentence comes twice, so that the gap in the second one can
    be filled; code loses a part that its other lines determine.
    """
    while True:
        prefix, middle, suffix = _code(rng) if rng.random() < 0.67 else _words(rng, ask)
        if belongs(prefix + middle + suffix, split):
            break
    return Problem("infill", (), Reply(None, middle), Code(middle), gap=Gap(prefix, suffix))


def _code(rng: Random) -> tuple[str, str, str]:
    xs = rng.choice(_OF)
    a, b = rng.sample(_VARIABLES, 2)
    sign, order = rng.choice("+-*"), rng.choice("<>")
    text = rng.choice(_FUNCTIONS).format(
        f=rng.choice(_NAMES), xs=xs, x=_ONE[xs], X=_ONE[xs].capitalize(), a=a, b=b,
        n=rng.randint(2, 20), sign=sign, word=_SIGNS[sign], op=order, than=_ORDERS[order],
    )  # fmt: skip
    prefix, middle, suffix = text.split("|")
    return prefix, middle, suffix


def _words(rng: Random, ask: Ask) -> tuple[str, str, str]:
    """Two sentences and the first one again, with a hole of one to three words."""
    parts = [part for text in ask.texts for part in text.replace("\n", " ").split(". ")]
    given = [f"{part.strip(' .')}." for part in parts if 4 <= len(part.split()) <= 30]
    made = sentences(rng)
    sentence, other = (rng.choice(given) if given else next(made) for _ in range(2))
    words = sentence.split()
    at = rng.randint(1, len(words) - 2)
    count = rng.randint(1, min(3, len(words) - 1 - at))
    before, middle = " ".join(words[:at]) + " ", " ".join(words[at : at + count])
    return f"{sentence} {other} {before}", middle, " " + " ".join(words[at + count :])


TASK = Task("infill", "a hole in a small Python function or in a sentence", make, ("off",))
