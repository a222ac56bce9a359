"""Sources of training documents: corpus files, the standard library, and tasks.

A corpus file is JSON lines, plain or xz-compressed; `records` lists the shapes that are
understood. Python source is read from the standard library of the running interpreter. The
problems of a task (`dsv4.tasks`) become documents with their reference replies.

Splits: problems of a task are of the split that is asked for, by construction. Of files, one in
twenty records is held out if a source asks for a split, by a hash of the record's `id` or, without
one, of the document's text.
"""

from __future__ import annotations

import hashlib
import json
import lzma
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from dsv4.data.documents import Conversation, Document, Infill, Text, texts
from dsv4.data.records import to_documents
from dsv4.data.retelling import retold
from dsv4.errors import DataError
from dsv4.tasks.problem import Ask, Problem, Split, is_held_out
from dsv4.tasks.registry import problems

STANDARD_LIBRARY = "python:stdlib"
TASK_PREFIX = "tasks:"
HELD_OUT_RECORDS = 0.05
_MAX_PYTHON_BYTES = 16_000
_MAX_INFILL = 2000  # characters: prefix, middle and suffix have to fit into one row of a batch


@dataclass(frozen=True)
class Source:
    """One ingredient of a training mix.

    name: file-name-safe label of its token shard.
    files: glob below the corpora folder, `STANDARD_LIBRARY`, or `tasks:NAME`.
    epochs: how often one pass over the mix shows each document (0.5: a random half).
    kinds: keep only records whose `kind` is listed (empty: keep all).
    keep: fraction of the documents that is read at all, chosen by hash of the text.
    licence: stated in the model card.
    split: "train" or "heldout"; None reads all records of files, and "train" of a task.
    infill: share of the texts that become infills; a long text stays and gives an excerpt.
    longest: documents of more characters are left out (0: none are).
    retold: stories are asked for by what they are about (`retelling`) instead of by their title.
    count, seed, ask: how many problems of a task, drawn from which seed, and of what kind.
    """

    name: str
    files: str
    epochs: float
    licence: str
    kinds: tuple[str, ...] = ()
    keep: float = 1.0
    split: Split | None = None
    infill: float = 0.0
    longest: int = 0
    retold: bool = False
    count: int = 0
    seed: int = 0
    ask: Ask = field(default_factory=Ask)

    @property
    def task(self) -> str | None:
        """The task whose problems this source is made of, if it is."""
        return self.files.removeprefix(TASK_PREFIX) if self.files.startswith(TASK_PREFIX) else None


def read(source: Source, corpora: Path) -> Iterator[Document]:
    """The documents of a source, in file order.

    Raises DataError if a file is missing or unreadable, UsageError for an unknown task.
    """
    if source.task is not None:
        documents = _problems(source, source.task)
    elif source.files == STANDARD_LIBRARY:
        documents = (item for item in _standard_library() if _in_split(source, None, item))
    else:
        documents = _records(source, corpora)
    kept: Iterator[Document] = (document for document in documents if _kept(document, source.keep))
    if source.longest:
        kept = (document for document in kept if _characters(document) <= source.longest)
    if source.retold:
        kept = map(retold, kept)
    return _with_infills(kept, source.infill) if source.infill else kept


def _records(source: Source, corpora: Path) -> Iterator[Document]:
    paths = matching(source.files, corpora)
    if not paths:
        below = "" if Path(source.files).is_absolute() else f" below {corpora}"
        raise DataError(
            f"no file matches {source.files}{below}",
            "patterns are below the folder of corpora, or begin at a root",
        )
    return (
        document
        for path in paths
        for number, record in _numbered(path)
        if not source.kinds or record.get("kind") in source.kinds
        for document in to_documents(record, f"{path}, line {number}")
        if _in_split(source, record.get("id"), document)
    )


def matching(files: str, corpora: Path) -> list[Path]:
    """The files that a pattern means, which is below `corpora` unless it begins at a root. Raises
    DataError for what is no pattern."""
    pattern = Path(files)
    if not pattern.parts:
        raise DataError("a source names no files", "a name or a pattern such as '*.jsonl'")
    if pattern.is_absolute():
        return sorted(Path(pattern.anchor).glob(str(pattern.relative_to(pattern.anchor))))
    return sorted(corpora.glob(files))


def _problems(source: Source, task: str) -> Iterator[Document]:
    split = source.split or "train"
    drawn = problems(task, source.count, seed=source.seed, split=split, ask=source.ask)
    return map(from_problem, drawn)


def from_problem(problem: Problem) -> Document:
    """A problem with its reference reply."""
    if problem.gap is not None:
        return Infill(problem.gap.prefix, problem.reply.content, problem.gap.suffix)
    return Conversation((*problem.messages, problem.said()), problem.tools, problem.effort)


def read_records(path: Path) -> Iterator[dict[str, Any]]:
    """The JSON objects of a `.jsonl` or `.jsonl.xz` file, blank lines left out. Raises DataError
    with the line."""
    return (record for _, record in _numbered(path))


def _numbered(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line, record) of a file."""
    opened = lzma.open if path.suffix == ".xz" else open
    number = 0
    try:
        with opened(path, "rt", encoding="utf-8-sig") as lines:  # some begin with a mark
            for number, line in enumerate(lines, 1):
                if not line.strip():
                    continue
                record = json.loads(line)
                if not isinstance(record, dict):
                    raise DataError(f"{path}, line {number}: not a JSON object")
                yield number, record
    except json.JSONDecodeError as error:
        place = f"{path}, line {number}, column {error.colno}"
        raise DataError(f"{place}: {error.msg}", "every line is one JSON object") from error
    except (OSError, ValueError, EOFError, lzma.LZMAError) as error:
        raise DataError(f"{path}, after line {number}: {error}") from error


def _standard_library() -> Iterator[Document]:
    """Small modules of the running interpreter's standard library, without its tests."""
    root = Path(sysconfig.get_path("stdlib"))
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).parts
        if {"test", "tests", "idlelib", "site-packages", "lib2to3"} & set(parts):
            continue
        if path.stat().st_size <= _MAX_PYTHON_BYTES:
            text = path.read_text(encoding="utf-8", errors="replace").strip()
            if text:
                yield Text(text)


def _kept(document: Document, share: float) -> bool:
    """Whether a document falls into the kept share, by a hash of its text (not of its place).

    Another hash than the one that holds documents out, so that the two choices are independent.
    """
    if share >= 1:
        return True
    text = "\n".join(texts(document)).encode()
    digest = hashlib.blake2b(text, digest_size=8, person=b"keep").digest()
    return int.from_bytes(digest, "big") < share * 2**64


def _characters(document: Document) -> int:
    return sum(map(len, texts(document)))


def _in_split(source: Source, key: object, document: Document) -> bool:
    """Whether a record is of the split that is asked for."""
    if source.split is None:
        return True
    name = f"record/{key}" if key is not None else "\n".join(texts(document))
    return is_held_out(name, HELD_OUT_RECORDS) == (source.split == "heldout")


def _with_infills(documents: Iterator[Document], share: float) -> Iterator[Document]:
    """Some of the texts as infills; which ones, and where they are cut, depends on the text."""
    for document in documents:
        if not isinstance(document, Text):
            yield document
            continue
        rng = Random(document.text)
        if rng.random() >= share:
            yield document
            continue
        if len(document.text) > _MAX_INFILL:
            yield document
        yield _cut(document.text, rng)


def _cut(text: str, rng: Random) -> Infill:
    """An excerpt of the text, its middle (at most a third of it) taken out."""
    start = rng.randint(0, max(0, len(text) - _MAX_INFILL))
    part = text[start : start + _MAX_INFILL]
    begin = rng.randint(0, len(part) - 1)
    end = min(len(part), begin + rng.randint(1, max(1, len(part) // 3)))
    return Infill(part[:begin], part[begin:end], part[end:])
