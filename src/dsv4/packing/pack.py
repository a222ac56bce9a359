"""A codebase as one prompt: its tree, its files, and a question."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dsv4 import locate
from dsv4.encoding.tokenizer import Tokenizer
from dsv4.errors import DataError, UsageError
from dsv4.packing.order import order
from dsv4.packing.tree import tree
from dsv4.packing.walk import MOST_BYTES, File, Skipped, walk

Count = Callable[[str], int]
"""Tokens of a text."""


@dataclass(frozen=True, slots=True)
class Packed:
    """A prompt. `tokens`: of its text alone, without the chat template around it. `files`: those
    that are in it, in their order, with their tokens; `skipped`: by path."""

    text: str
    tokens: int
    files: tuple[tuple[str, int], ...]
    skipped: tuple[Skipped, ...]

    def json(self) -> dict[str, Any]:
        """All of it but the text."""
        return {
            "tokens": self.tokens,
            "files": [{"path": path, "tokens": tokens} for path, tokens in self.files],
            "skipped": [
                {"path": one.path, "kind": one.kind, "why": one.why} for one in self.skipped
            ],
        }


def pack_repo(
    folder: Path | str,
    *,
    question: str | None = None,
    model: str | Path = locate.DEFAULT,
    max_tokens: int | None = None,
    ignore: Sequence[str] = (),
    allow_secrets: Sequence[str] = (),
    max_file_bytes: int = MOST_BYTES,
) -> Packed:
    """A whole codebase as one prompt, in the form in which the web page sends files too.

    Tokens are those of `model`'s vocabulary. Files are taken in order as long as they fit into
    `max_tokens`. `ignore`: further patterns as in a .gitignore; `allow_secrets`: patterns
    of files that are taken although they look like secrets.

    Raises DataError for a folder that cannot be read or has no text, UsageError if not even the
    tree fits.
    """
    tokenizer = Tokenizer.from_folder(locate.folder(model))
    found = list(
        walk(
            Path(folder),
            more_ignored=ignore,
            allow_secrets=allow_secrets,
            most_bytes=max_file_bytes,
        )
    )
    name = Path(folder).expanduser().resolve().name
    return _pack(name, found, question, lambda text: len(tokenizer.encode(text)), max_tokens)


def _pack(
    name: str,
    found: Sequence[File | Skipped],
    question: str | None,
    count: Count,
    max_tokens: int | None,
) -> Packed:
    files = sorted((one for one in found if isinstance(one, File)), key=lambda one: order(one.path))
    skipped = [one for one in found if isinstance(one, Skipped)]
    if not files:
        kinds = Counter(one.kind for one in skipped)
        why = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items())) or "it is empty"
        raise DataError(f"{name} has no text to pack: {why}", "--list names what is passed over")
    sizes = {one.path: count(_shown(one)) for one in files}
    if max_tokens is not None:
        files, over = _fitting(name, files, skipped, question, count, sizes, max_tokens)
        skipped += over
    text = _text(name, files, skipped, question)
    return Packed(
        text,
        count(text),
        tuple((one.path, sizes[one.path]) for one in files),
        tuple(sorted(skipped, key=lambda one: order(one.path))),
    )


def _fitting(
    name: str,
    files: Sequence[File],
    skipped: Sequence[Skipped],
    question: str | None,
    count: Count,
    sizes: dict[str, int],
    max_tokens: int,
) -> tuple[list[File], list[Skipped]]:
    """The files that fit, taken in order, and the others."""
    over = {one.path: _over(one, sizes) for one in files}
    used = count(_text(name, [], [*skipped, *over.values()], question))
    if used > max_tokens:
        raise UsageError(
            f"the tree and the question alone have {used:,} tokens", "a larger --max-tokens"
        )
    taken: list[File] = []
    for one in files:
        if used + sizes[one.path] <= max_tokens:
            used += sizes[one.path]
            taken.append(one)
            del over[one.path]
    # Where two texts meet, a vocabulary may need a token more than for each alone.
    while count(_text(name, taken, [*skipped, *over.values()], question)) > max_tokens:
        last = taken.pop()
        over[last.path] = _over(last, sizes)
    return taken, list(over.values())


def _over(file: File, sizes: dict[str, int]) -> Skipped:
    return Skipped(file.path, "budget", f"{sizes[file.path]:,} tokens do not fit")


def _text(
    name: str, files: Sequence[File], skipped: Sequence[Skipped], question: str | None
) -> str:
    parts = [f"The files of {name}:\n\n{tree(name, [one.path for one in files], skipped)}\n"]
    parts += [_shown(one) for one in files]
    return "".join(parts) + (question or "")


def _shown(file: File) -> str:
    """A file in the form DeepSeek recommends for file uploads."""
    text = file.text.rstrip()
    return f"[file name]: {file.path}\n[file content begin]\n{text}\n[file content end]\n"
