"""Documents: what every corpus is turned into before it becomes tokens.

Three kinds, each encoded as the model will meet it:

* `Text`: `BOS text EOS`.
* `Infill`: a text with a hole, `BOS fim▁begin prefix fim▁hole suffix fim▁end middle EOS`.
* `Conversation`: the V4 chat encoding with real control ids (`dsv4.encoding.chat.render`):
  system message, tools, reasoning, tool calls and results. Of earlier turns the reasoning is
  dropped unless there are tools, as in the prompts of a served model.

With its ids a document has a loss mask: true for what a model is to write. That is everything an
assistant says (reasoning, `</think>`, content, tool calls and the EOS), the middle of an infill
and the whole of a text. Pre-training may learn from all tokens and ignore the mask.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from dsv4.encoding.chat import render
from dsv4.encoding.control import ASSISTANT, BOS, EOS, TASKS, THINK_CLOSE, THINK_OPEN
from dsv4.encoding.fim import render_fim
from dsv4.encoding.messages import Message
from dsv4.encoding.prompt import Prompt, PromptBuilder, Span
from dsv4.tasks.problem import Effort

_AFTER_ASSISTANT = {THINK_OPEN, THINK_CLOSE}
_QUICK_TASKS = set(TASKS.values())


@dataclass(frozen=True)
class Text:
    """Running text."""

    text: str

    def prompt(self) -> Prompt:
        """The document as spans of text and control tokens."""
        builder = PromptBuilder()
        builder.control(BOS)
        builder.content(self.text)
        builder.control(EOS)
        return builder.build()


@dataclass(frozen=True)
class Infill:
    """A text in three parts, of which the middle is to be guessed from the others."""

    prefix: str
    middle: str
    suffix: str

    def prompt(self) -> Prompt:
        """The document as spans of text and control tokens."""
        builder = PromptBuilder()
        for span in render_fim(self.prefix, self.suffix).spans:
            assert isinstance(span, Span)
            (builder.control if span.is_control else builder.content)(span.text)
        builder.content(self.middle)
        builder.control(EOS)
        return builder.build()


@dataclass(frozen=True)
class Conversation:
    """Messages that end with an assistant's. `tools` are function objects; with effort "off" the
    reasoning of the messages is not shown."""

    messages: tuple[Message, ...]
    tools: tuple[Mapping[str, Any], ...] = ()
    effort: Effort = "off"

    def prompt(self) -> Prompt:
        """The document as spans of text and control tokens.

        Raises EncodingError for a conversation that can not be written.
        """
        thinking = self.effort != "off"
        return render(
            self.messages,
            thinking=thinking,
            effort=self.effort if thinking else None,
            tools=self.tools,
        )


Document = Text | Infill | Conversation


def exchange(prompt: str, response: str) -> Conversation:
    """One question and its answer, without thinking."""
    return Conversation((Message("user", prompt), Message("assistant", response)))


def texts(document: Document) -> Iterator[str]:
    """All text of a document as a tokenizer gets it, without the control tokens."""
    for span in document.prompt().spans:
        assert isinstance(span, Span)  # nothing here was drawn by a model
        if not span.is_control:
            yield span.text


class TextEncoder(Protocol):
    """The part of `dsv4.encoding.Tokenizer` that documents need."""

    def encode(self, text: str) -> list[int]:
        """Ids of plain text; marker strings inside it stay text."""
        ...

    def control_id(self, token: str) -> int:
        """Id of a control token."""
        ...


class Encoded(NamedTuple):
    """Ids of a document, and beside each whether a model is to learn to write it."""

    ids: list[int]
    learned: list[bool]


def encode_document(tokenizer: TextEncoder, document: Document) -> Encoded:
    """Ids and loss mask of a document, from BOS to its last EOS."""
    ids: list[int] = []
    learned: list[bool] = []
    spans = document.prompt().spans
    marks = _marks(document, spans)
    for span, mark in zip(spans, marks, strict=True):
        assert isinstance(span, Span)
        piece = (
            [tokenizer.control_id(span.text)] if span.is_control else tokenizer.encode(span.text)
        )
        ids += piece
        learned += [mark] * len(piece)
    return Encoded(ids, learned)


def _marks(document: Document, spans: tuple[Any, ...]) -> list[bool]:
    """Which spans are learned."""
    if isinstance(document, Text):
        return [span.text != BOS or not span.is_control for span in spans]
    if isinstance(document, Infill):
        written = 1 + bool(document.middle)  # the middle, EOS
        return [i >= len(spans) - written for i in range(len(spans))]
    return list(_written_by_assistant(spans))


def _written_by_assistant(spans: tuple[Span, ...]) -> Iterator[bool]:
    """An answer lasts from `<Assistant>` and the marker of its mode, or from the token of a quick
    task, to EOS. Nothing that a user writes can be one of these tokens."""
    opening = writing = False
    for span in spans:
        if opening and span.is_control and span.text in _AFTER_ASSISTANT:
            opening, writing = False, True
            yield False
        elif span.is_control and span.text in _QUICK_TASKS:
            writing = True
            yield False
        else:
            yield writing
        if span == (ASSISTANT, True):
            opening = True
        elif span == (EOS, True):
            writing = False
