"""Answers on disk, one line each, so that an interrupted evaluation goes on where it was."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO

from dsv4.errors import DataError, UsageError
from dsv4.files import replace_text

_FORMAT = 1


@dataclass(frozen=True)
class Record:
    """One answered item. `seconds`: since the answer before it. `text`: what was written.

    tokens: written. hit, miss: of the prompt, as a service charges for them. when: seconds since
    1970.
    """

    id: str
    group: str
    digest: str
    measures: Mapping[str, float]
    seconds: float = 0.0
    prompt: str = ""
    text: str = ""
    tokens: int = 0
    finished: bool = True
    logprobs: tuple[float, ...] = field(default=())
    hit: int = 0
    miss: int = 0
    when: float = 0.0


class Records:
    """The records of one benchmark and one target in a JSONL file; a context manager.

    A half-written last line is dropped. Raises UsageError for a file with the answers of another
    target (by its fingerprint), DataError for one that is something else.
    """

    def __init__(self, path: Path, fingerprint: str) -> None:
        self.path = path
        lines, self.known = _stored(path, fingerprint)
        self._rewrite(lines)
        self._file: IO[str] = path.open("a", encoding="utf-8")

    def __enter__(self) -> Records:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def add(self, record: Record) -> None:
        """Keep a record; it survives the end of the process at any moment after this."""
        self.known[record.id] = record
        self._file.write(json.dumps(asdict(record), ensure_ascii=False) + "\n")
        self._file.flush()

    def _rewrite(self, lines: list[str]) -> None:
        replace_text(self.path, "".join(line + "\n" for line in lines))


def stored(path: Path, fingerprint: str) -> dict[str, Record]:
    """What a file holds, if there is one, without opening it for more. Raises as `Records`."""
    return _stored(path, fingerprint)[1]


def _stored(path: Path, fingerprint: str) -> tuple[list[str], dict[str, Record]]:
    """Whole lines, the header first, and the records by their ids, also those that are not asked
    for now."""
    header = {"format": _FORMAT, "fingerprint": fingerprint}
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    lines = text.split("\n")[:-1] or [json.dumps(header)]
    try:
        found = json.loads(lines[0])
    except ValueError:
        found = None
    if not (isinstance(found, dict) and "fingerprint" in found):
        raise DataError(f"{path} holds no records of an evaluation", "give another folder as --out")
    if found != header:
        raise UsageError(
            f"{path} holds answers of another model or version",
            "give another folder as --out, or delete that one",
        )
    records = (_read(path, line) for line in lines[1:])
    return lines, {record.id: record for record in records}


def _read(path: Path, line: str) -> Record:
    try:
        values = json.loads(line)
        return Record(**{**values, "logprobs": tuple(values["logprobs"])})
    except (ValueError, TypeError, KeyError) as error:
        raise DataError(f"{path} has a damaged line: {error}", "delete it to begin anew") from error
