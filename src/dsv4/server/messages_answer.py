"""Events as the JSON of Anthropic's messages: one object, or named server-sent events."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import Any

from dsv4.chat.answer import Finish, Shown, Usage, unguessable
from dsv4.encoding.events import (
    ContentDelta,
    ReasoningDelta,
    ToolCallArgumentsDelta,
    ToolCallEnd,
    ToolCallStart,
)
from dsv4.server.failure import anthropic_body_of
from dsv4.server.sse import event as named

_REASONS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}


def signature(thinking: str) -> str:
    """What we sign thinking with. Nothing depends on it: any signature is accepted back."""
    return base64.b64encode(hashlib.sha256(b"dsv4" + thinking.encode()).digest()).decode()


class MessagesAnswer:
    """One message while it is written, block after block. `prompt`: tokens of the prompt.

    A stream's message_start tells how much of the prompt was cached, so it waits for that.
    """

    def __init__(self, model: str, prompt: int) -> None:
        self._prompt = prompt
        self._message: dict[str, Any] = {
            "id": unguessable("msg_", 24),
            "type": "message",
            "role": "assistant",
            "model": model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": usage_json(Usage(prompt, 0, 0)),
        }
        self._open: dict[str, Any] | None = None
        """The block that is written, which is the last of the message."""

    def whole(self, events: Sequence[Shown]) -> dict[str, Any]:
        for event in events:
            for _ in self._json(event):
                pass
        return self._message

    def first(self) -> Iterator[str]:
        yield self.waiting()

    def begun(self, cached: int) -> Iterator[str]:
        self._message["usage"] = usage_json(Usage(self._prompt, 0, 0, cached))
        yield named({"type": "message_start", "message": self._message})

    def pieces(self, event: Shown) -> Iterator[str]:
        yield from map(named, self._json(event))

    def waiting(self) -> str:
        return named({"type": "ping"})

    def failed(self, error: Exception) -> Iterator[str]:
        yield named(anthropic_body_of(error))

    def _json(self, event: Shown) -> Iterator[dict[str, Any]]:
        if isinstance(event, ReasoningDelta):
            yield from self._in({"type": "thinking", "thinking": "", "signature": ""})
            yield self._delta("thinking_delta", "thinking", event.text)
        elif isinstance(event, ContentDelta):
            yield from self._in({"type": "text", "text": ""})
            yield self._delta("text_delta", "text", event.text)
        elif isinstance(event, ToolCallStart):
            yield from self._close()
            call = {"type": "tool_use", "id": event.id, "name": event.name, "input": {}}
            yield from self._in(call)
        elif isinstance(event, ToolCallArgumentsDelta):
            delta = {"type": "input_json_delta", "partial_json": event.text}
            yield self._event("content_block_delta", delta=delta)
        elif isinstance(event, ToolCallEnd):
            assert self._open is not None
            if event.complete:
                self._open["input"] = json.loads(event.arguments)
            yield from self._close()
            if not event.complete:  # only a stream shows what there was of it
                self._message["content"].pop()
        elif isinstance(event, Finish):
            yield from self._close()
            yield from self._end(event)

    def _end(self, finish: Finish) -> Iterator[dict[str, Any]]:
        kind = "stop_sequence" if finish.stop is not None else _REASONS[finish.reason]
        reason = {"stop_reason": kind, "stop_sequence": finish.stop}
        usage = usage_json(finish.usage)
        self._message |= {**reason, "usage": usage}
        yield {"type": "message_delta", "delta": reason, "usage": usage}
        yield {"type": "message_stop"}

    def _in(self, block: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Make sure that a block like this is open."""
        if self._open is not None and self._open["type"] == block["type"]:
            return
        yield from self._close()
        self._message["content"].append(block)
        self._open = block
        yield self._event("content_block_start", content_block=dict(block))

    def _close(self) -> Iterator[dict[str, Any]]:
        if self._open is None:
            return
        if self._open["type"] == "thinking":
            self._open["signature"] = signature(self._open["thinking"])
            delta = {"type": "signature_delta", "signature": self._open["signature"]}
            yield self._event("content_block_delta", delta=delta)
        yield self._event("content_block_stop")
        self._open = None

    def _delta(self, kind: str, field: str, text: str) -> dict[str, Any]:
        assert self._open is not None
        self._open[field] += text
        return self._event("content_block_delta", delta={"type": kind, field: text})

    def _event(self, kind: str, **fields: Any) -> dict[str, Any]:
        return {"type": kind, "index": len(self._message["content"]) - 1, **fields}


def usage_json(usage: Usage) -> dict[str, Any]:
    """Token counts; those of the input do not hold what was read from the cache."""
    return {
        "input_tokens": usage.prompt - usage.cached,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.cached,
        "output_tokens": usage.completion,
    }
