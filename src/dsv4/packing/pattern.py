"""One line of a .gitignore.

pathspec reads the wildcards. Which path a line speaks of is decided here: for pathspec a pattern
that matches a folder speaks of all that is inside too, and a `!` for a folder then takes in what
an earlier line keeps out of it. Git asks folder by folder, and so does whoever uses this.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pathspec import GitIgnoreSpec

Name = Callable[[str], bool]
"""Whether a name of a file or folder fits."""

_DEEP = "**"


@dataclass(frozen=True, slots=True)
class Pattern:
    """`line`: as it was written. `parts`: one for every folder and the last name; None stands for
    any number of folders."""

    line: str
    ignores: bool
    folders_only: bool
    parts: tuple[Name | None, ...]

    def matches(self, names: Sequence[str], *, folder: bool) -> bool:
        """Whether it speaks of exactly this path, not of what is inside it."""
        return (folder or not self.folders_only) and _match(self.parts, names)


def parse(line: str) -> Pattern | None:
    """A line as git reads it; None: it is empty, a comment, or no pattern."""
    text = re.sub(r"(?<!\\) +$", "", line.rstrip("\r\n"))
    ignores = not text.startswith("!")
    text = text if ignores else text[1:]
    if not text or (ignores and text.startswith("#")):
        return None
    body = text.removesuffix("/")
    parts = body.removeprefix("/").split("/")
    if "/" not in body:
        parts.insert(0, _DEEP)  # of any folder
    if not all(parts):
        return None
    parts = [part for i, part in enumerate(parts) if part != _DEEP or parts[i - 1 : i] != [_DEEP]]
    try:
        names = tuple(None if part == _DEEP else _name(part) for part in parts)
    except ValueError:
        return None
    return Pattern(line.strip(), ignores, body != text, names)


def exactly(path: str) -> str:
    """The line that ignores this one path, relative to the folder of the .gitignore."""
    return "/" + re.sub(r"([\\*?\[\]!# ])", r"\\\1", path)


def _name(part: str) -> Name:
    if not re.search(r"[\\*?\[]", part):
        return part.__eq__
    return GitIgnoreSpec.from_lines([f"/{part}"]).match_file


def _match(parts: Sequence[Name | None], names: Sequence[str]) -> bool:
    if not parts:
        return not names
    first, *rest = parts
    if first is None:
        if not rest:
            return bool(names)
        return any(_match(rest, names[i:]) for i in range(len(names)))
    return bool(names) and first(names[0]) and _match(rest, names[1:])
