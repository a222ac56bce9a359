"""A rendered prompt: text in which every control token is marked as one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from dsv4.encoding.control import THINK_OPEN, split_controls


class Span(NamedTuple):
    """A piece of a prompt. A control span is exactly one control token."""

    text: str
    is_control: bool


@dataclass(frozen=True, slots=True)
class Prompt:
    """Spans in order. Neighbouring text is always one span, because a tokenizer must see the
    whole text between two control tokens to cut it as it was cut in training."""

    spans: tuple[Span, ...]

    @property
    def text(self) -> str:
        """The prompt as one string; what is control and what is user text is lost."""
        return "".join(span.text for span in self.spans)

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

    _spans: list[Span] = field(default_factory=list)
    _text: list[str] = field(default_factory=list)

    def content(self, text: str) -> None:
        """Text of a user, tool or model: never control, whatever it contains."""
        if text:
            self._text.append(clean(text))

    def control(self, token: str) -> None:
        """One control token."""
        self._flush()
        self._spans.append(Span(token, True))

    def template(self, text: str) -> None:
        """Wording of the template: the control strings in it are control tokens."""
        for piece, is_control in split_controls(text):
            if is_control:
                self.control(piece)
            else:
                self._text.append(piece)

    def build(self) -> Prompt:
        self._flush()
        return Prompt(tuple(self._spans))

    def _flush(self) -> None:
        if self._text:
            self._spans.append(Span("".join(self._text), False))
            self._text.clear()
