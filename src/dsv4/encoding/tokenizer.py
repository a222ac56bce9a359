"""Text <-> ids, with one rule: ordinary text never becomes a control token.

The `tokenizers` library finds added tokens anywhere in a text, so a user who types
`<｜User｜>` would open a turn. Here the library only ever sees a copy of the vocabulary
without added tokens; control ids come from the control spans of a `Prompt` alone.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import tokenizers

from dsv4.encoding.canonical import token_map
from dsv4.encoding.control import BOS, EOS, REQUIRED_TOKENS
from dsv4.encoding.prompt import Drawn, Prompt, clean
from dsv4.errors import EncodingError

MAX_FILE_BYTES = 64 << 20
"""The released vocabulary is 6.4 MB."""

MOST_HELD = 4096
"""Characters that are encoded at once while no other thread can run: the library lets others run
only in a batch."""


class Piece(NamedTuple):
    """Decoded text; a control piece is exactly one control token, shown as its string."""

    text: str
    control: bool


class Tokenizer:
    """A byte-level BPE vocabulary with V4's control tokens.

    Every added token of the file counts as control: visible in `decode`, never produced by
    `encode`. Raises EncodingError if the file is unusable or lacks a required control token.

    `vocab_size` is one more than the largest id of the file. Models pad their vocabulary (V4:
    128,815 ids are used of 129,280), so ids up to `size`, the model's, are known but unused.
    """

    def __init__(
        self, spec: Mapping[str, Any], name: str = "tokenizer.json", size: int = 0
    ) -> None:
        try:
            vocab: dict[str, int] = spec["model"]["vocab"]
            self._controls = {str(t["content"]): int(t["id"]) for t in spec["added_tokens"] or ()}
            byte_level = spec["decoder"]["type"] == "ByteLevel"
            plain = {**spec, "added_tokens": [], "truncation": None, "padding": None}
            self._plain = tokenizers.Tokenizer.from_str(json.dumps(plain))
            self._tokens = {index: token for token, index in vocab.items()}
        except Exception as error:  # the library raises bare Exception for a bad file
            raise EncodingError(
                f"{name} is not a tokenizers file: {type(error).__name__}: {error}".split("\n")[0],
                hint="expected the tokenizer.json that comes with a V4 checkpoint",
            ) from error
        if not byte_level:
            raise EncodingError(
                f"{name} is not a byte-level BPE vocabulary",
                hint="V4 vocabularies have a ByteLevel decoder",
            )
        missing = [token for token in REQUIRED_TOKENS if token not in self._controls]
        if missing:
            raise EncodingError(
                f"{name} lacks the control tokens {', '.join(missing)}",
                hint="use a DeepSeek-V4 vocabulary, or train one with control.CONTROL_TOKENS",
            )
        self._contents = {index: content for content, index in self._controls.items()}
        self.vocab_size: int = 1 + max(*self._tokens, *self._contents)
        self._size = max(size, self.vocab_size)
        self.bos_id = self._controls[BOS]
        self.eos_id = self._controls[EOS]
        self._bytes: dict[int, bytes] = {}
        self._check_merges(name)

    @classmethod
    def from_file(cls, path: str | Path, size: int = 0) -> Tokenizer:
        """Read a tokenizer.json; `size`: ids of the model it is for."""
        path = Path(path)
        try:
            if path.stat().st_size > MAX_FILE_BYTES:
                raise EncodingError(f"{path} is larger than {MAX_FILE_BYTES >> 20} MiB")
            spec = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise EncodingError(
                f"can not read {path}: {error.strerror}",
                hint="a model folder needs a tokenizer.json beside its weights",
            ) from error
        except (ValueError, RecursionError) as error:
            raise EncodingError(f"{path} is not JSON: {error}") from error
        if not isinstance(spec, dict):
            raise EncodingError(f"{path} is not a tokenizers file: no JSON object at its top")
        return cls(spec, str(path), size)

    @classmethod
    def from_folder(cls, folder: str | Path, size: int = 0) -> Tokenizer:
        """Read the tokenizer.json of a model folder; `size`: ids of the model."""
        return cls.from_file(Path(folder) / "tokenizer.json", size)

    def encode(self, text: str) -> list[int]:
        """Ids of ordinary text. Control strings in it stay text; no BOS is added."""
        if len(text) > MOST_HELD:
            return self.encode_batch([text])[0]
        ids: list[int] = self._plain.encode(clean(text), add_special_tokens=False).ids
        return ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of many texts, on all cores."""
        cleaned = [clean(text) for text in texts]
        return [e.ids for e in self._plain.encode_batch_fast(cleaned, add_special_tokens=False)]

    def encode_prompt(self, prompt: Prompt) -> list[int]:
        """Ids of a prompt: its control spans become control ids, drawn answers stay as they
        are, all else is ordinary text."""
        ids: list[int] = []
        for span in prompt.spans:
            if isinstance(span, Drawn):
                ids.extend(span.ids)
            elif span.is_control:
                ids.append(self.control_id(span.text))
            else:
                ids.extend(self.encode(span.text))
        return ids

    def control_id(self, content: str) -> int:
        """Id of a control token such as `<think>`; EncodingError if the vocabulary lacks it."""
        try:
            return self._controls[content]
        except KeyError:
            raise EncodingError(
                f"this vocabulary has no control token {content!r}",
                hint="the prompt uses a feature this model was not made for",
            ) from None

    def is_control(self, index: int) -> bool:
        """Whether an id is a control token."""
        return index in self._contents

    def token_bytes(self, index: int) -> bytes:
        """The bytes an id stands for, b"" for an unused id; EncodingError if out of range."""
        known = self._bytes.get(index)
        if known is None:
            if not 0 <= index < self._size:
                raise EncodingError(
                    f"token id {index} is outside the vocabulary", hint=f"0..{self._size - 1}"
                )
            if index in self._contents:
                known = self._contents[index].encode()
            else:
                table = _byte_values()
                known = bytes(table[char] for char in self._tokens.get(index, ""))
            self._bytes[index] = known
        return known

    def token(self, index: int) -> str:
        """One id as visible text; bytes that are no UTF-8 of their own show as U+FFFD."""
        return self.token_bytes(index).decode("utf-8", "replace")

    def canonical_ids(self, size: int) -> list[int]:
        """The canonical id of every token of a model's vocabulary of `size` ids, for Engram; ids
        that are not used count as one."""
        return token_map(
            size,
            lambda index: self.token(index) if index < self.vocab_size else "",
            lambda index: self._tokens.get(index, ""),
        )

    @classmethod
    def canonical_ids_of(cls, folder: Path) -> Callable[[int], list[int]]:
        """`canonical_ids` of the vocabulary of a model folder, which is read when they are asked
        for."""
        return lambda size: cls.from_folder(folder).canonical_ids(size)

    def decode(self, ids: Iterable[int]) -> str:
        """Text of ids, control tokens visible; invalid UTF-8 becomes U+FFFD."""
        decoder = self.decoder()
        pieces = [piece.text for index in ids for piece in decoder.feed(index)]
        return "".join(pieces) + "".join(piece.text for piece in decoder.finish())

    def decoder(self) -> IncrementalDecoder:
        """A decoder for ids that arrive one by one."""
        return IncrementalDecoder(self)

    def _check_merges(self, name: str) -> None:
        """Prove that no merge builds a control token out of ordinary text."""
        for content in self._controls:
            if not self._contents.keys().isdisjoint(self.encode(content)):
                raise EncodingError(
                    f"{name} turns the plain text {content!r} into a control token",
                    hint="control tokens must be added tokens that no BPE merge produces",
                )


class IncrementalDecoder:
    """Ids in, pieces of text out; holds back a character until all its bytes are there.

    Joined, the pieces are the same text as `Tokenizer.decode` of all ids.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, index: int) -> list[Piece]:
        """Text that is complete after this id; a control token also flushes what was held."""
        data = self._tokenizer.token_bytes(index)
        if self._tokenizer.is_control(index):
            return [*self.finish(), Piece(data.decode(), True)]
        text = self._utf8.decode(data)
        return [Piece(text, False)] if text else []

    def finish(self) -> list[Piece]:
        """What was held back, incomplete characters as U+FFFD."""
        text = self._utf8.decode(b"", final=True)
        self._utf8.reset()
        return [Piece(text, False)] if text else []


@cache
def _byte_values() -> dict[str, int]:
    """The byte-level alphabet, inverted: printable Latin-1 bytes stand for themselves, the
    others are written, in order, as the characters from U+0100 on."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    hidden = [value for value in range(256) if value not in printable]
    table = {chr(value): value for value in printable}
    table.update({chr(0x100 + i): value for i, value in enumerate(hidden)})
    return table
