"""A rendered prompt: text in which every control token is marked as one."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import NamedTuple

from dsv4.encoding.control import THINK_OPEN, split_controls


class Span(NamedTuple):
    """A piece of a prompt. A control span is exactly one control token."""

    text: str
    is_control: bool


class Drawn(NamedTuple):
    """An answer by the ids that the model drew."""

    ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Prompt:
    """Spans in order. Neighbouring text is always one span, because a tokenizer must see the
    whole text between two control tokens to cut it as it was cut in training."""

    spans: tuple[Span | Drawn, ...]
    digest: bytes = b""
    """Names what stands here: equal for equal prompts of a PromptBuilder."""

    @property
    def text(self) -> str:
        """The prompt as one string, without drawn answers; what is control and what is user
        text is lost."""
        return "".join(span.text for span in self.spans if isinstance(span, Span))

    @property
    def opens_thinking(self) -> bool:
        """Whether the model's answer begins inside the reasoning."""
        return bool(self.spans) and self.spans[-1] == Span(THINK_OPEN, True)


def clean(text: str) -> str:
    """`text` with lone surrogates (half an emoji, as JavaScript can send) made U+FFFD."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


@dataclass(slots=True)
class PromptBuilder:
    """Collects a prompt. The method says who wrote a piece, and that alone decides whether
    marker text in it becomes a control token."""

    _spans: list[Span | Drawn] = field(default_factory=list)
    _text: list[str] = field(default_factory=list)
    _hash: hashlib.blake2b = field(default_factory=lambda: hashlib.blake2b(digest_size=16))

    def content(self, text: str) -> None:
        """Text of a user, tool or model: never control, whatever it contains."""
        if text:
            self._text.append(clean(text))

    def control(self, token: str) -> None:
        """One control token."""
        self._flush()
        self._append(Span(token, True))

    def drawn(self, ids: tuple[int, ...]) -> None:
        """An answer as the model drew it, control tokens included."""
        self._flush()
        self._append(Drawn(ids))

    def template(self, text: str) -> None:
        """Wording of the template: the control strings in it are control tokens."""
        for piece, is_control in split_controls(text):
            if is_control:
                self.control(piece)
            else:
                self._text.append(piece)

    def digest(self) -> bytes:
        """The digest of the prompt as far as it is written."""
        self._flush()
        return self._hash.digest()

    def build(self) -> Prompt:
        self._flush()
        return Prompt(tuple(self._spans), self._hash.digest())

    def _flush(self) -> None:
        if self._text:
            self._append(Span("".join(self._text), False))
            self._text.clear()

    def _append(self, span: Span | Drawn) -> None:
        self._spans.append(span)
        self._hash.update(repr(span).encode())
