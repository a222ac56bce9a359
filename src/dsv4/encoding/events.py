"""What a streaming parser reports, and the same put together."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from dsv4.encoding.messages import ToolCall


@dataclass(frozen=True, slots=True)
class ReasoningDelta:
    text: str


@dataclass(frozen=True, slots=True)
class ContentDelta:
    text: str


@dataclass(frozen=True, slots=True)
class ToolCallStart:
    """A call of a known name began. `index` counts the calls of the answer from 0, `id` is what
    its result will name; parsers leave it empty."""

    index: int
    name: str
    id: str = ""


@dataclass(frozen=True, slots=True)
class ToolCallArgumentsDelta:
    """A piece of the call's arguments, which together are one JSON object."""

    index: int
    text: str


@dataclass(frozen=True, slots=True)
class ToolCallEnd:
    """A call ended. Only if `complete` are `arguments` (all its pieces joined) valid JSON; a
    call cut off in the middle is not complete and must not be executed."""

    index: int
    arguments: str
    complete: bool


_DELTAS = (ReasoningDelta, ContentDelta, ToolCallArgumentsDelta)
Event = ReasoningDelta | ContentDelta | ToolCallStart | ToolCallArgumentsDelta | ToolCallEnd


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole answer. `reasoning` is None in chat mode; `arguments` of calls are JSON text."""

    reasoning: str | None
    content: str
    tool_calls: tuple[ToolCall, ...] = ()

    def message(self) -> dict[str, Any]:
        """The answer as an OpenAI-shaped assistant message, to continue a conversation with."""
        message: dict[str, Any] = {"role": "assistant", "content": self.content}
        if self.reasoning is not None:
            message["reasoning_content"] = self.reasoning
        if self.tool_calls:
            message["tool_calls"] = [
                {
                    "id": call.id or f"call_{i:02}",
                    "type": "function",
                    "function": {"name": call.name, "arguments": call.arguments},
                }
                for i, call in enumerate(self.tool_calls)
            ]
        return message


def merge(events: Iterable[Event]) -> list[Event]:
    """Join neighbouring deltas of one kind: what remains does not depend on chunking."""
    merged: list[Event] = []
    for event in events:
        last = merged[-1] if merged else None
        if isinstance(event, _DELTAS) and isinstance(last, _DELTAS) and _kind(event) == _kind(last):
            merged[-1] = replace(last, text=last.text + event.text)
        else:
            merged.append(event)
    return merged


def _kind(delta: ReasoningDelta | ContentDelta | ToolCallArgumentsDelta) -> tuple[type, int]:
    return type(delta), getattr(delta, "index", -1)


def collect(events: Iterable[Event], *, thinking: bool) -> Reply:
    """The answer that events describe; calls that are not complete are left out."""
    reasoning: list[str] = []
    content: list[str] = []
    starts: dict[int, ToolCallStart] = {}
    calls: list[ToolCall] = []
    for event in events:
        if isinstance(event, ReasoningDelta):
            reasoning.append(event.text)
        elif isinstance(event, ContentDelta):
            content.append(event.text)
        elif isinstance(event, ToolCallStart):
            starts[event.index] = event
        elif isinstance(event, ToolCallEnd) and event.complete:
            start = starts[event.index]
            calls.append(ToolCall(start.name, event.arguments, start.id or None))
    return Reply("".join(reasoning) if thinking else None, "".join(content), tuple(calls))
