"""Which regular expressions may be followed token by token: what a step costs grows with the
number of ways in which repetitions in repetitions can be read.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

MOST_PATTERN = 1024
"""Characters of a regular expression."""
MOST_REPEATS = 128
"""Bounds of a repetition in a regular expression."""
MOST_READINGS = 128
"""What repetitions in repetitions may come to, their bounds multiplied."""

_UNBOUNDED = 6
"""What a repetition without an upper bound counts in that product."""
_PART = re.compile(
    r"(?P<open>\((?:\?(?:P?<\w+>|[:=!]|<[=!]))?)|(?P<close>\))|(?P<bar>\|)"
    r"|(?P<times>[*+?]|\{(\d{1,9})(,(\d{0,9}))?\})"
    r"|(?P<edge>[\^$]|\\[bB])"
    r"|\\u\{[0-9a-fA-F]+\}|\\u[0-9a-fA-F]{4}|\\x[0-9a-fA-F]{2}|\\c[A-Za-z]|\\[pP]\{[^}]*\}|\\."
    r"|\[\^?\]?(?:\\.|[^\]\\])*\]|.",
    re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class _Size:
    """Lengths of a text that matches (`most` None: any), and in how many ways it may be read."""

    least: int = 0
    most: int | None = 0
    readings: int = 1

    def then(self, other: _Size) -> _Size:
        most = None if self.most is None or other.most is None else self.most + other.most
        return _Size(self.least + other.least, most, self.readings + other.readings - 1)

    def either(self, other: _Size) -> _Size:
        most = None if self.most is None or other.most is None else max(self.most, other.most)
        readings = max(self.readings, other.readings)
        if not self.fixed or not other.fixed or self.most != other.most:
            readings = self.readings + other.readings
        return _Size(min(self.least, other.least), most, readings)

    @property
    def fixed(self) -> bool:
        return self.least == self.most

    def times(self, least: int, most: int | None) -> _Size:
        """Raises ValueError for what may be empty and is repeated."""
        if (most is None or most > 1) and self.least == 0:
            raise ValueError("what may be empty is repeated")
        if self.readings > 1:
            counted = _UNBOUNDED if most is None else max(1, most)
        else:
            counted = _UNBOUNDED if most is None else max(1, most - least + 1)
        longest = None if most is None or self.most is None else self.most * most
        return _Size(self.least * least, longest, self.readings * counted)


def problem(pattern: str) -> str | None:
    """Why a pattern cannot be followed, in a few words; None if it can."""
    if len(pattern) > MOST_PATTERN:
        return f"it has more than {MOST_PATTERN} characters"
    try:
        readings = _size(pattern).readings
    except ValueError as error:
        return str(error)
    if readings > MOST_READINGS:
        return f"repetitions in repetitions multiply to {readings}, more than {MOST_READINGS}"
    return None


def _size(pattern: str) -> _Size:
    """What brackets that do not match mean is left to the compiler, which refuses them."""
    groups: list[tuple[_Size | None, _Size]] = []
    branches: _Size | None = None
    """Of the open group: the alternatives before the one that is read."""
    before, last = _Size(), _Size()
    """Of the open alternative: what is done, and what a repetition would repeat."""
    most_nested = 1

    def ended() -> _Size:
        whole = before.then(last)
        return whole if branches is None else branches.either(whole)

    for part in _PART.finditer(pattern):
        if part["open"]:
            groups.append((branches, before.then(last)))
            branches, before, last = None, _Size(), _Size()
        elif part["close"]:
            group = ended()
            branches, before = groups.pop() if groups else (None, _Size())
            last = group
        elif part["bar"]:
            branches, before, last = ended(), _Size(), _Size()
        elif part["times"]:
            least, most = _bounds(part)
            last = last.times(least, most)
            most_nested = max(most_nested, last.readings)
        else:
            before = before.then(last)
            last = _Size() if part["edge"] else _Size(1, 1)
    while groups:
        group = ended()
        branches, before = groups.pop()
        last = group
    whole = ended()
    # One after the other they add up to nothing that hurts.
    return _Size(whole.least, whole.most, most_nested)


def _bounds(part: re.Match[str]) -> tuple[int, int | None]:
    """How often a quantifier repeats. Raises ValueError for bounds that are too large."""
    simple: dict[str, tuple[int, int | None]] = {"*": (0, None), "+": (1, None), "?": (0, 1)}
    if part["times"] in simple:
        return simple[part["times"]]
    least, comma, most = part[5], part[6], part[7]
    bounds = int(least), (int(most) if most else None) if comma else int(least)
    if any(bound is not None and bound > MOST_REPEATS for bound in bounds):
        raise ValueError(f"a repetition has a bound above {MOST_REPEATS}")
    return bounds
