"""Records of public data sets: those that come with the package, or whole ones in a folder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from dsv4.data.corpora import read_records
from dsv4.errors import DataError
from dsv4.evaluation.benchmark import Settings

BUNDLED = Path(__file__).parent / "data"
"""Parts of the sets whose licences allow it; README.md there says which, and from where."""

Record = Mapping[str, Any]


def read(settings: Settings, name: str) -> list[Record]:
    """The records of NAME.jsonl or NAME.jsonl.xz in the folder of the settings, else the bundled
    ones, in an order that is drawn by their contents.

    The bundled ones are the first in that order, so a larger number of questions, from a whole set
    or not, is the same questions and more. Raises DataError if there is no such file.
    """
    for folder in (settings.data, BUNDLED):
        paths = files(folder, name) if folder is not None else []
        if paths:
            return ordered(read_records(paths[0]))
    raise DataError(
        f"there is no {name}.jsonl or {name}.jsonl.xz",
        "its licence keeps it out of the package: give a folder that has it as --data",
    )


def bundled(benchmark: str) -> list[str]:
    """The names under which a benchmark reads bundled records; they begin with its own."""
    return sorted(path.name.partition(".")[0] for path in BUNDLED.glob(f"{benchmark}*.jsonl*"))


def files(folder: Path, name: str) -> list[Path]:
    """NAME.jsonl and NAME.jsonl.xz, those that a folder has."""
    return sorted(folder.glob(f"{name}.jsonl*"))


def ordered(records: Iterable[Record]) -> list[Record]:
    """Records in the order of their digests; of equal ones (MMLU has some) one."""
    found = {digest(record): record for record in records}
    return [found[name] for name in sorted(found)]


def digest(record: Record) -> str:
    """A name for a record by its contents."""
    text = json.dumps(record, sort_keys=True, ensure_ascii=False)
    return hashlib.blake2b(text.encode(), digest_size=6).hexdigest()


def first(records: list[Record], count: int, key: str | None = None) -> Iterator[Record]:
    """The first `count` records, or as many of every value of `key`."""
    if key is None:
        yield from islice(records, count)
        return
    taken: dict[str, int] = {}
    for record in records:
        value = record[key]
        taken[value] = taken.get(value, 0) + 1
        if taken[value] <= count:
            yield record
