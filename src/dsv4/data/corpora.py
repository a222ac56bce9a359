"""Readers of training corpora: files on disk in, documents out.

A corpus file is JSON lines, plain or xz-compressed. Four record shapes are understood:
`{"prompt", "response"}` (optionally `input`, appended to the prompt, and `kind`),
`{"messages": [{"role", "content"}]}`, `{"text"}` and WordNet's
`{"words", "pos", "definition", "examples"}`. Python source is read from the standard library of
the running interpreter.
"""

from __future__ import annotations

import hashlib
import json
import lzma
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dsv4.data.documents import Document, Turn
from dsv4.errors import DataError

STANDARD_LIBRARY = "python:stdlib"
_MAX_PYTHON_BYTES = 16_000
_POS = {"n": "noun", "v": "verb", "a": "adjective", "s": "adjective", "r": "adverb"}


@dataclass(frozen=True)
class Source:
    """One ingredient of a training mix.

    name: file-name-safe label of its token shard.
    files: glob below the corpora folder, or `STANDARD_LIBRARY`.
    epochs: how often one pass over the mix shows each document (0.5: a random half).
    kinds: keep only records whose `kind` is listed (empty: keep all).
    keep: fraction of the documents that is read at all, chosen by hash of the text.
    licence: stated in the model card.
    """

    name: str
    files: str
    epochs: float
    licence: str
    kinds: tuple[str, ...] = ()
    keep: float = 1.0


def read(source: Source, corpora: Path) -> Iterator[Document]:
    """The documents of a source, in file order. Raises DataError if there are none."""
    if source.files == STANDARD_LIBRARY:
        documents = _standard_library()
    else:
        paths = sorted(corpora.glob(source.files))
        if not paths:
            raise DataError(
                f"no file matches {source.files} below {corpora}",
                "pass the folder that holds the corpora of the recipe",
            )
        documents = (
            document
            for path in paths
            for record in read_records(path)
            if not source.kinds or record.get("kind") in source.kinds
            for document in [to_document(record, path)]
            if document is not None
        )
    return (document for document in documents if _kept(document, source.keep))


def read_records(path: Path) -> Iterator[dict[str, Any]]:
    """The JSON objects of a `.jsonl` or `.jsonl.xz` file. Raises DataError with the line."""
    opened = lzma.open if path.suffix == ".xz" else open
    number = 0
    try:
        with opened(path, "rt", encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                record = json.loads(line)
                if not isinstance(record, dict):
                    raise DataError(f"{path}, line {number}: not a JSON object")
                yield record
    except (OSError, ValueError, EOFError, lzma.LZMAError) as error:
        raise DataError(f"{path}, after line {number}: {error}") from error


def to_document(record: dict[str, Any], path: Path) -> Document | None:
    """A record as a document; None for a record with nothing to learn from.

    Raises DataError for a record of an unknown shape.
    """
    try:
        if "prompt" in record:
            extra = record.get("input") or ""
            prompt = f"{record['prompt']}\n{extra}" if extra else record["prompt"]
            return Document.exchange(prompt.strip(), record["response"].strip())
        if "messages" in record:
            return _conversation(record["messages"])
        if "text" in record:
            text = record["text"].strip()
            return Document.plain(text) if text else None
        return _definition(record)
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path}: a record has keys {', '.join(sorted(record))}",
            "expected prompt+response, messages, text, or words+pos+definition",
        ) from error


def _conversation(messages: list[dict[str, Any]]) -> Document | None:
    """Messages as turns; None if a tool takes part (tool calls belong to fine-tuning)."""
    turns = []
    for message in messages:
        if message["role"] not in ("user", "assistant") or "content" not in message:
            return None
        turns.append(Turn(message["role"], message["content"].strip()))
    return Document(tuple(turns)) if turns else None


def _definition(record: dict[str, Any]) -> Document:
    """A dictionary entry as a question about a word and its answer."""
    word = record["words"][0]
    answer = f"{word} ({_POS[record['pos']]}): {record['definition']}."
    if record["examples"]:
        answer += f' Example: "{record["examples"][0]}"'
    return Document.exchange(f'What does "{word}" mean?', answer)


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
                yield Document.plain(text)


def _kept(document: Document, share: float) -> bool:
    """Whether a document falls into the kept share, by a hash of its text (not of its place)."""
    if share >= 1:
        return True
    digest = hashlib.blake2b("\n".join(document.texts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") < share * 2**64
