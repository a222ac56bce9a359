"""Problems of long texts that need more than one place: keys among others, values passed on.

After RULER's multi-key needles and variable tracking (Hsieh et al. 2024), in our own words.
"""

from __future__ import annotations

from random import Random

from dsv4.tasks.checks import Mentions
from dsv4.tasks.filler import hide
from dsv4.tasks.problem import Problem, dialogue
from dsv4.tasks.words import invent

KEYS, ASKED = 8, 3
"""Keys with values that are hidden, and how many of them are asked for."""

CHAINS, HOPS = 2, 4
"""Values that are passed on, and through how many variables each."""

LONGEST = 60
"""Words of an answer: who lists everything finds nothing."""


def keys(rng: Random, words: int, texts: tuple[str, ...]) -> Problem:
    """Some keys out of several that look alike."""
    names = _distinct(rng, KEYS)
    values = [str(value) for value in rng.sample(range(100_000, 1_000_000), KEYS)]
    facts = [
        f"The special number of {name} is {value}."
        for name, value in zip(names, values, strict=True)
    ]
    asked = rng.sample(range(KEYS), ASKED)
    listed = ", ".join(names[i] for i in asked[:-1]) + f" and {names[asked[-1]]}"
    text = hide(rng, facts, words, texts)
    question = (
        f"{text}\n\nWhat are the special numbers of {listed}? Answer with these {ASKED} alone."
    )
    forms = [(value, f"{int(value):,}") for value in values]
    check = Mentions(
        tuple(forms[i] for i in asked),
        tuple(form for i in range(KEYS) if i not in asked for form in forms[i]),
        longest=LONGEST,
    )
    return dialogue("multikey", question, ", ".join(values[i] for i in asked), check)


def variables(rng: Random, words: int, texts: tuple[str, ...]) -> Problem:
    """All variables that a value reached through others, where another value was passed on too."""
    names = [name.upper() for name in _distinct(rng, CHAINS * (HOPS + 1))]
    values = rng.sample(range(10_000, 100_000), CHAINS)
    chains = [names[i::CHAINS] for i in range(CHAINS)]
    steps = []
    for hop in range(HOPS + 1):
        for chain, value in zip(chains, values, strict=True):
            source = f"{value}" if hop == 0 else f"VAR {chain[hop - 1]}"
            steps.append(f"VAR {chain[hop]} = {source}.")
    text = hide(rng, steps, words, texts)
    question = (
        f"{text}\n\nWhich variables have the value {values[0]}, given or passed on? Answer with "
        f"the names of all {HOPS + 1} of them alone."
    )
    check = Mentions(tuple((name,) for name in chains[0]), tuple(chains[1]), longest=LONGEST)
    return dialogue("variables", question, ", ".join(chains[0]), check)


def _distinct(rng: Random, count: int) -> list[str]:
    """Made-up words, no two of them alike."""
    found: dict[str, None] = {}
    while len(found) < count:
        found[invent(rng, 3)] = None
    return list(found)
