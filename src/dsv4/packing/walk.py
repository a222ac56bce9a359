"""The files of a folder: those that are text, and why the others are passed over."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pathspec import GitIgnoreSpec

from dsv4.errors import DataError
from dsv4.packing.ignore import Ignore, ignore
from dsv4.packing.secrets import secret_name, secret_text

MOST_BYTES = 256 << 10
"""Of a file, unless somebody says otherwise."""

Kind = Literal["ignored", "binary", "large", "secret", "link", "unreadable", "empty", "budget"]


@dataclass(frozen=True, slots=True)
class File:
    """A text; `path` is relative to the folder, separated by `/`."""

    path: str
    text: str


@dataclass(frozen=True, slots=True)
class Skipped:
    """What is passed over; the path of a folder ends in `/`. `why`: in words."""

    path: str
    kind: Kind
    why: str


def walk(
    folder: Path,
    *,
    more_ignored: Sequence[str] = (),
    allow_secrets: Sequence[str] = (),
    most_bytes: int = MOST_BYTES,
) -> Iterator[File | Skipped]:
    """Everything in a folder, in no particular order. Links are not followed.

    `more_ignored`: patterns as in a .gitignore, `!` takes in what is ignored; `allow_secrets`:
    patterns of files that are taken although they look like secrets. Raises DataError if the folder
    cannot be read.
    """
    folder = folder.expanduser().resolve()
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder", "give the folder of a codebase")
    allowed = GitIgnoreSpec.from_lines(allow_secrets)
    waiting = [("", folder, ignore(folder, more_ignored))]
    while waiting:
        base, here, rules = waiting.pop()
        rules = rules.within(here, base)
        try:
            entries = list(os.scandir(here))
        except OSError as error:
            if not base:
                raise DataError(f"cannot read {folder}: {error.strerror}") from error
            yield Skipped(base, "unreadable", error.strerror or "unreadable")
            continue
        for entry in entries:
            path = base + entry.name
            if not path.isprintable():  # a new line in it could look like another file's head
                yield Skipped(ascii(path)[1:-1], "unreadable", "a name with control characters")
                continue
            if entry.is_dir(follow_symlinks=False):
                why = rules.why(f"{path}/")
                if why is not None:
                    yield Skipped(f"{path}/", "ignored", why)
                else:
                    waiting.append((f"{path}/", Path(entry.path), rules))
                continue
            yield _file(entry, path, rules, allowed, most_bytes)


def _file(
    entry: os.DirEntry[str], path: str, rules: Ignore, allowed: GitIgnoreSpec, most_bytes: int
) -> File | Skipped:
    why = rules.why(path)
    if why is not None:
        return Skipped(path, "ignored", why)
    if entry.is_symlink():
        return Skipped(path, "link", "a symbolic link")
    trusted = allowed.match_file(path)
    kind = None if trusted else secret_name(entry.name)
    if kind is not None:
        return Skipped(path, "secret", f"{kind}, by its name")
    try:
        about = entry.stat(follow_symlinks=False)
        if not stat.S_ISREG(about.st_mode):
            return Skipped(path, "unreadable", "no regular file")
        if about.st_size > most_bytes:
            return Skipped(path, "large", f"{about.st_size:,} bytes")
        data = Path(entry.path).read_bytes()
    except OSError as error:
        return Skipped(path, "unreadable", error.strerror or "unreadable")
    if not data.strip():
        return Skipped(path, "empty", "nothing in it")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return Skipped(path, "binary", "no UTF-8 text")
    if "\0" in text:
        return Skipped(path, "binary", "null bytes")
    found = None if trusted else secret_text(text)
    if found is not None:
        return Skipped(path, "secret", found)
    return File(path, text.replace("\r\n", "\n"))
