"""Token shards: a tokenised source on disk, built once and memory-mapped afterwards.

A shard folder holds, for every source, `NAME.tokens.npy` (uint16 or uint32, all documents one
after the other), `NAME.offsets.npy` (int64, D + 1 places where documents begin) and
`NAME.learned.npy` (bits, as `numpy.packbits` packs them: the loss mask of every token, see
`documents`), and one `index.json` with the fingerprint of what they were made from.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dsv4.data.corpora import Source, matching, read
from dsv4.data.documents import Document, TextEncoder, encode_document
from dsv4.errors import DataError, UsageError
from dsv4.files import replace_text

_FORMAT = 3  # of the shard and of how documents are encoded
_LOOK, _LOOKS = 1 << 16, 64  # bytes of a sample of a file, samples of a large one
_SAMPLE = 64  # problems that tell one version of a task from another

Progress = Callable[[str, int], None]
"""Called with (source name, documents so far)."""


@dataclass(frozen=True)
class Shard:
    """Token ids of one source. Document d is tokens[offsets[d]:offsets[d + 1]].

    learned: the loss mask of all tokens, eight to a byte; None where every token is learned.
    """

    name: str
    tokens: npt.NDArray[np.unsignedinteger]
    offsets: npt.NDArray[np.int64]
    learned: npt.NDArray[np.uint8] | None = None

    @property
    def documents(self) -> int:
        """How many documents there are."""
        return len(self.offsets) - 1

    def mask(self, start: int, count: int) -> npt.NDArray[np.bool_]:
        """Whether each of the tokens [start, start + count) is to be learned."""
        if self.learned is None:
            return np.ones(count, np.bool_)
        first, skip = start // 8, start % 8
        packed = self.learned[first : (start + count + 7) // 8]
        return np.unpackbits(packed, count=skip + count)[skip:].astype(np.bool_)


def make_shard(
    name: str, documents: Iterable[Document], tokenizer: TextEncoder, vocab_size: int
) -> Shard:
    """Tokenise documents in memory. Raises DataError if there are none."""
    width = np.uint16 if vocab_size <= 1 << 16 else np.uint32
    parts, masks = [], []
    for item in documents:
        encoded = encode_document(tokenizer, item)
        parts.append(np.array(encoded.ids, width))
        masks.append(np.array(encoded.learned, np.bool_))
    if not parts:
        raise DataError(f"source {name} has no documents")
    offsets = np.cumsum([0, *map(len, parts)], dtype=np.int64)
    learned = np.packbits(np.concatenate(masks))
    return Shard(name, np.concatenate(parts), offsets, learned)


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
    files of every source it makes the fingerprint. Epochs do not count: a mix can be
    re-weighted without tokenising again. Shards whose corpora are not on this machine stand for
    them: a mix can be tokenised on one machine and trained on another. Raises UsageError if two
    sources have one name, DataError for what `read` and `make_shard` can not use.
    """
    names = Counter(source.name for source in sources)
    if names and max(names.values()) > 1:
        raise UsageError(
            f"two sources are called {names.most_common(1)[0][0]!r}",
            "give each a name of its own: it names the files of its shard",
        )
    folder.mkdir(parents=True, exist_ok=True)
    index = folder / "index.json"
    known = _known(index)
    marks = {source.name: _fingerprint(source, corpora, version) for source in sources}
    for source in sources:
        paths = _paths(folder, source.name)
        if _is_current(known.get(source.name), marks[source.name], source, corpora) and all(
            path.is_file() for path in paths
        ):
            continue
        counted = _counted(read(source, corpora), source, progress)
        shard = make_shard(source.name, counted, tokenizer, vocab_size)
        arrays = (shard.tokens, shard.offsets, np.asarray(shard.learned))
        for path, array in zip(paths, arrays, strict=True):
            temporary = path.with_suffix(".part")
            with temporary.open("wb") as file:
                np.save(file, array)
            os.replace(temporary, path)
        known[source.name] = marks[source.name]
        replace_text(index, json.dumps(known, indent=1))
    return [open_shard(folder, source.name) for source in sources]


def _known(index: Path) -> dict[str, list[str]]:
    """The fingerprints of an index, if there is one. Raises DataError if it is damaged."""
    if not index.is_file():
        return {}
    try:
        return dict(json.loads(index.read_text(encoding="utf-8")))
    except ValueError as error:
        raise DataError(f"{index} is damaged: {error}", "delete the folder") from error


def open_shard(folder: Path, name: str) -> Shard:
    """Memory-map a shard. Raises DataError if it is missing or damaged."""
    try:
        tokens, offsets, learned = (np.load(path, mmap_mode="r") for path in _paths(folder, name))
    except (OSError, ValueError) as error:
        raise DataError(f"no readable token shard {name} in {folder}: {error}") from error
    whole = offsets.ndim == 1 and len(offsets) and offsets[-1] == len(tokens)
    if not whole or len(learned) != (len(tokens) + 7) // 8:
        raise DataError(f"token shard {name} in {folder} is damaged", "delete the folder")
    return Shard(name, tokens, offsets, learned)


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _paths(folder: Path, name: str) -> tuple[Path, Path, Path]:
    """Of tokens, offsets and loss mask."""
    return (
        folder / f"{name}.tokens.npy",
        folder / f"{name}.offsets.npy",
        folder / f"{name}.learned.npy",
    )


def _fingerprint(source: Source, corpora: Path, version: str) -> list[str]:
    """[what is asked for, what it was made from]; of a task, its first problems stand for all."""
    if source.task is None:
        origin: list[Any] = [_looks(path) for path in matching(source.files, corpora)]
    else:
        first = read(replace(source, count=min(source.count, _SAMPLE)), corpora)
        origin = [repr(document) for document in first]
    said = [source.files, source.kinds, source.keep, source.split, source.infill,
            source.longest, source.retold, source.count, source.seed, repr(source.ask), _FORMAT,
            version]  # fmt: skip
    return [hashlib.sha256(json.dumps(part).encode()).hexdigest() for part in (said, origin)]


def _is_current(known: list[str] | None, mark: list[str], source: Source, corpora: Path) -> bool:
    """Whether a shard holds what is asked for, as far as its origin can be seen from here."""
    if known is None or known[0] != mark[0]:
        return False
    return known[1] == mark[1] or (source.task is None and not matching(source.files, corpora))


def _looks(path: Path) -> list[Any]:
    """Name, size and a digest of a file, of large ones that of samples."""
    size, digest = path.stat().st_size, hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        for start in range(0, size, max(_LOOK, size // _LOOKS)):
            file.seek(start)
            digest.update(file.read(_LOOK))
    return [path.name, size, digest.hexdigest()]


def _counted(
    documents: Iterable[Document], source: Source, progress: Progress
) -> Iterable[Document]:
    """The documents, counted. Raises DataError if there is none."""
    number = 0
    for number, document in enumerate(documents, 1):
        if number % 500 == 0:
            progress(source.name, number)
        yield document
    if not number:
        kept = f" in the split {source.split!r}" if source.split else ""
        raise DataError(
            f"{source.files} has no documents{kept}",
            "of a conversation the assistant says something; of few records none may be held out",
        )
