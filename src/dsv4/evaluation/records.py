"""Answers on disk, one line each, so that an interrupted evaluation goes on where it was."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO

from dsv4.errors import DataError, UsageError

_FORMAT = 1


@dataclass(frozen=True)
class Record:
    """One answered item. `seconds`: since the answer before it. `text`: what was written."""

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


class Records:
    """The records of one benchmark and one target in a JSONL file; a context manager.

    A half-written last line is dropped. Raises UsageError for a file with the answers of another
    target (by its fingerprint), DataError for one that is something else.
    """

    def __init__(self, path: Path, fingerprint: str) -> None:
        self.path = path
        self.known: dict[str, Record] = {}
        """Id -> record, also of items that are not asked for now."""
        header = {"format": _FORMAT, "fingerprint": fingerprint}
        lines = self._lines()
        if lines and json.loads(lines[0]) != header:
            raise UsageError(
                f"{path} holds answers of another model or version",
                "give another folder as --out, or delete that one",
            )
        for line in lines[1:]:
            record = _read(path, line)
            self.known[record.id] = record
        self._rewrite(lines or [json.dumps(header)])
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

    def _lines(self) -> list[str]:
        """Whole lines of the file, the header first."""
        if not self.path.is_file():
            return []
        text = self.path.read_text(encoding="utf-8", errors="replace")
        lines = text.split("\n")[:-1]
        try:
            header = json.loads(lines[0]) if lines else {}
        except ValueError:
            header = None
        if lines and not (isinstance(header, dict) and "fingerprint" in header):
            raise DataError(
                f"{self.path} holds no records of an evaluation", "give another folder as --out"
            )
        return lines

    def _rewrite(self, lines: list[str]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        new = self.path.with_suffix(".new")
        new.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
        os.replace(new, self.path)


def _read(path: Path, line: str) -> Record:
    try:
        values = json.loads(line)
        return Record(**{**values, "logprobs": tuple(values["logprobs"])})
    except (ValueError, TypeError, KeyError) as error:
        raise DataError(f"{path} has a damaged line: {error}", "delete it to begin anew") from error
