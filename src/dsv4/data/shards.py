"""Token shards: a tokenised source on disk, built once and memory-mapped afterwards.

A shard folder holds, for every source, `NAME.tokens.npy` (uint16 or uint32, all documents one
after the other) and `NAME.offsets.npy` (int64, D + 1 places where documents begin), and one
`index.json` with the fingerprint of what they were made from.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dsv4.data.corpora import Source, read
from dsv4.data.documents import Document, TextEncoder, encode_document
from dsv4.errors import DataError

Progress = Callable[[str, int], None]
"""Called with (source name, documents so far)."""


@dataclass(frozen=True)
class Shard:
    """Token ids of one source. Document d is tokens[offsets[d]:offsets[d + 1]]."""

    name: str
    tokens: npt.NDArray[np.unsignedinteger]
    offsets: npt.NDArray[np.int64]

    @property
    def documents(self) -> int:
        """How many documents there are."""
        return len(self.offsets) - 1


def make_shard(
    name: str, documents: Iterable[Document], tokenizer: TextEncoder, vocab_size: int
) -> Shard:
    """Tokenise documents in memory. Raises DataError if there are none."""
    width = np.uint16 if vocab_size <= 1 << 16 else np.uint32
    parts = [np.array(encode_document(tokenizer, item), width) for item in documents]
    if not parts:
        raise DataError(f"source {name} has no documents")
    offsets = np.cumsum([0, *map(len, parts)], dtype=np.int64)
    return Shard(name, np.concatenate(parts), offsets)


def build_shards(
    sources: Sequence[Source],
    corpora: Path,
    tokenizer: TextEncoder,
    vocab_size: int,
    folder: Path,
    *,
    version: str,
    progress: Progress = lambda name, count: None,
) -> list[Shard]:
    """Shards of all sources in `folder`, made anew unless what is there has the same origin.

    version: what identifies the tokenizer (its file's digest); together with the description and
    file sizes of every source it makes the fingerprint. Epochs do not count: a mix can be
    re-weighted without tokenising again.
    """
    folder.mkdir(parents=True, exist_ok=True)
    index = folder / "index.json"
    known = json.loads(index.read_text()) if index.is_file() else {}
    marks = {source.name: _fingerprint(source, corpora, version) for source in sources}
    for source in sources:
        paths = _paths(folder, source.name)
        if known.get(source.name) == marks[source.name] and all(p.is_file() for p in paths):
            continue
        counted = _counted(read(source, corpora), source.name, progress)
        shard = make_shard(source.name, counted, tokenizer, vocab_size)
        for path, array in zip(paths, (shard.tokens, shard.offsets), strict=True):
            temporary = path.with_suffix(".part")
            with temporary.open("wb") as file:
                np.save(file, array)
            os.replace(temporary, path)
        known[source.name] = marks[source.name]
        index.write_text(json.dumps(known, indent=1))
    return [open_shard(folder, source.name) for source in sources]


def open_shard(folder: Path, name: str) -> Shard:
    """Memory-map a shard. Raises DataError if it is missing or damaged."""
    try:
        tokens, offsets = (np.load(path, mmap_mode="r") for path in _paths(folder, name))
    except (OSError, ValueError) as error:
        raise DataError(f"no readable token shard {name} in {folder}: {error}") from error
    if offsets.ndim != 1 or not len(offsets) or offsets[-1] != len(tokens):
        raise DataError(f"token shard {name} in {folder} is damaged", "delete the folder")
    return Shard(name, tokens, offsets)


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _paths(folder: Path, name: str) -> tuple[Path, Path]:
    return folder / f"{name}.tokens.npy", folder / f"{name}.offsets.npy"


def _fingerprint(source: Source, corpora: Path, version: str) -> str:
    files = [(p.name, p.stat().st_size) for p in sorted(corpora.glob(source.files))]
    said = [source.files, source.kinds, source.keep, files, version]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()


def _counted(documents: Iterable[Document], name: str, progress: Progress) -> Iterable[Document]:
    for number, document in enumerate(documents, 1):
        if number % 500 == 0:
            progress(name, number)
        yield document
