"""Which paths are no part of a codebase: .gitignore files, and what hardly anybody wants."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dsv4.packing.pattern import Pattern, parse

VERSIONS = frozenset({".git", ".hg", ".svn", ".jj"})
"""Never packed, whatever the rules say: histories, and settings that may hold passwords."""

DEFAULTS = """
.idea .vscode .DS_Store
.venv/ venv/ node_modules/ bower_components/ __pycache__/ *.egg-info/
.mypy_cache/ .pytest_cache/ .ruff_cache/ .hypothesis/ .tox/ .nox/ .cache/ .next/ .nuxt/ .gradle/
.terraform/ coverage/ htmlcov/
package-lock.json npm-shrinkwrap.json yarn.lock pnpm-lock.yaml bun.lock Cargo.lock poetry.lock
uv.lock pdm.lock Pipfile.lock composer.lock Gemfile.lock flake.lock go.sum
*.min.js *.min.css *.map *.pyc *.pyo
""".split()
"""Environments, caches, and what tools generate: patterns as in a .gitignore."""

NAME = ".gitignore"


@dataclass(frozen=True, slots=True)
class _Rules:
    """Patterns that hold inside a folder. `base`: its path with a `/` at the end, or nothing;
    `origin`: where they stand."""

    base: str
    origin: str
    patterns: tuple[Pattern, ...]

    def verdict(self, path: str) -> tuple[bool, str] | None:
        """(ignored, what says so) of a path inside the folder; None: nothing is said."""
        folder = path.endswith("/")
        names = path.removeprefix(self.base).rstrip("/").split("/")
        for pattern in reversed(self.patterns):
            if pattern.matches(names, folder=folder):
                return pattern.ignores, f"{pattern.line} in {self.origin}"
        return None


@dataclass(frozen=True, slots=True)
class Ignore:
    """The rules of a folder and of those above it; later ones win, as git has it. What they do not
    keep out the `defaults` may, and `last` ones win over all. Immutable.

    `prefix`: path of the packed folder from the root of the repository it is in, with a `/` at
    the end unless it is empty.
    """

    rules: tuple[_Rules, ...]
    defaults: tuple[_Rules, ...] = ()
    last: tuple[_Rules, ...] = ()
    prefix: str = ""

    def within(self, folder: Path, path: str) -> Ignore:
        """These, and those that the folder at this path (with a `/` at the end) brings."""
        own = _read(folder / NAME, self.prefix + path)
        return replace(self, rules=(*self.rules, *own)) if own else self

    def why(self, path: str) -> str | None:
        """The pattern that keeps a path out; None: none does. That of a folder ends in `/`."""
        if path.rstrip("/").rpartition("/")[2] in VERSIONS:
            return "version control"
        path = self.prefix + path
        said = _verdict(self.last, path)
        if said is None:
            said = _verdict(self.rules, path)
            if said is None or not said[0]:
                said = _verdict(self.defaults, path)
        return said[1] if said is not None and said[0] else None


def ignore(folder: Path, more: Sequence[str] = ()) -> Ignore:
    """What a folder (an absolute path) ignores before its own .gitignore is read: the defaults,
    and what the repository around it says, unless that ignores the folder as a whole. `more`
    patterns win over all of them.
    """
    defaults = _rules("", "the defaults", DEFAULTS)
    last = _rules("", "--ignore", more)
    root = _repository(folder)
    if root is None:
        return Ignore((), defaults, last)
    around = _read(root / ".git" / "info" / "exclude", "")
    path = ""
    for name in folder.relative_to(root).parts:
        around += _read(root / path / NAME, path)
        path += f"{name}/"
    if path and Ignore(around).why(path) is not None:
        return Ignore((), defaults, last)
    # Those of the command line begin at the packed folder.
    last = tuple(replace(rules, base=path) for rules in last)
    return Ignore(around, defaults, last, path)


def _verdict(rules: Sequence[_Rules], path: str) -> tuple[bool, str] | None:
    """What the last rules say that say anything."""
    said = (one.verdict(path) for one in reversed(rules))
    return next((one for one in said if one is not None), None)


def _repository(folder: Path) -> Path | None:
    """The root of the git repository that a folder is in."""
    return next((one for one in (folder, *folder.parents) if (one / ".git").exists()), None)


def _read(file: Path, base: str) -> tuple[_Rules, ...]:
    """The rules of a file; none if it is not there, or nothing that can be read."""
    try:
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ()
    return _rules(base, f"{base}{file.name}", lines)


def _rules(base: str, origin: str, lines: Sequence[str]) -> tuple[_Rules, ...]:
    patterns = tuple(found for line in lines if (found := parse(line)) is not None)
    return (_Rules(base, origin, patterns),) if patterns else ()
