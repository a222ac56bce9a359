"""Documents: what every corpus is turned into before it becomes tokens."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

from dsv4.encoding.control import ASSISTANT, BOS, EOS, THINK_CLOSE, USER

Role = Literal["text", "user", "assistant"]


@dataclass(frozen=True)
class Turn:
    """One piece of a document: bare text, or one side of a conversation."""

    role: Role
    text: str


@dataclass(frozen=True)
class Document:
    """Something to learn from: a text (one `text` turn) or a conversation."""

    turns: tuple[Turn, ...]

    @classmethod
    def plain(cls, text: str) -> Document:
        """A document that is only text."""
        return cls((Turn("text", text),))

    @classmethod
    def exchange(cls, prompt: str, response: str) -> Document:
        """One question and its answer."""
        return cls((Turn("user", prompt), Turn("assistant", response)))

    @property
    def texts(self) -> Iterator[str]:
        """The texts of all turns, in order, without any markers."""
        return (turn.text for turn in self.turns)


class TextEncoder(Protocol):
    """The part of `dsv4.encoding.Tokenizer` that documents need."""

    def encode(self, text: str) -> list[int]:
        """Ids of plain text; marker strings inside it stay text."""
        ...

    def control_id(self, token: str) -> int:
        """Id of a control token."""
        ...


def encode_document(tokenizer: TextEncoder, document: Document) -> list[int]:
    """Ids of a document, from BOS to EOS.

    Text becomes `BOS text EOS`. A conversation follows the V4 chat encoding with thinking off,
    `BOS (<User> question <Assistant> </think> answer EOS)*`, with real control ids, so that a
    model trained on it answers through the ordinary chat interface.
    """
    control = tokenizer.control_id
    ids = [control(BOS)]
    for turn in document.turns:
        if turn.role == "user":
            ids.append(control(USER))
        elif turn.role == "assistant":
            ids += [control(ASSISTANT), control(THINK_CLOSE)]
        ids += tokenizer.encode(turn.text)
        if turn.role != "user":
            ids.append(control(EOS))
    return ids
