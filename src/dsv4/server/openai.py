"""Events as the JSON of chat completions: one object, or server-sent chunks."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterable, Iterator
from typing import Any

from dsv4.chat.answer import Finish, Usage
from dsv4.encoding.events import (
    ContentDelta,
    Event,
    ReasoningDelta,
    ToolCallArgumentsDelta,
    ToolCallEnd,
    ToolCallStart,
    collect,
)


def usage_json(usage: Usage) -> dict[str, Any]:
    """Token counts as the hosted API reports them."""
    return {
        "prompt_tokens": usage.prompt,
        "completion_tokens": usage.completion,
        "total_tokens": usage.prompt + usage.completion,
        "prompt_tokens_details": {"cached_tokens": usage.cached},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning},
        "prompt_cache_hit_tokens": usage.cached,
        "prompt_cache_miss_tokens": usage.prompt - usage.cached,
    }


class Completion:
    """One answer's envelope: id, time and model are the same in every chunk."""

    def __init__(self, model: str, fingerprint: str) -> None:
        self._head = {"id": str(uuid.uuid4()), "created": int(time.time()), "model": model}
        self._fingerprint = fingerprint

    def _object(self, kind: str, **fields: Any) -> dict[str, Any]:
        head = self._head
        return {
            "id": head["id"],
            "object": kind,
            "created": head["created"],
            "model": head["model"],
            "system_fingerprint": self._fingerprint,
            **fields,
        }

    def whole(self, events: Iterable[Event | Finish], thinking: bool) -> dict[str, Any]:
        """The response of a request without `stream`."""
        deltas = [event for event in events if not isinstance(event, Finish)]
        (finish,) = [event for event in events if isinstance(event, Finish)]
        reply = collect(deltas, thinking=thinking)
        message: dict[str, Any] = {"role": "assistant", "content": reply.content}
        if reply.reasoning is not None:
            message["reasoning_content"] = reply.reasoning
        if reply.tool_calls:
            message["content"] = reply.content or None
            message["tool_calls"] = [
                {
                    "id": call.id,
                    "type": "function",
                    "function": {"name": call.name, "arguments": call.arguments},
                }
                for call in reply.tool_calls
            ]
        choice = {
            "index": 0,
            "message": message,
            "logprobs": None,
            "finish_reason": finish.reason,
        }
        return self._object("chat.completion", choices=[choice], usage=usage_json(finish.usage))

    def _chunk(
        self, delta: dict[str, Any], reason: str | None = None, usage: Usage | None = None
    ) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        counted = usage_json(usage) if usage else None
        return self._object("chat.completion.chunk", choices=[choice], usage=counted)

    def first(self, thinking: bool) -> dict[str, Any]:
        """The chunk that names the role."""
        text = (None, "") if thinking else ("", None)
        return self._chunk({"role": "assistant", "content": text[0], "reasoning_content": text[1]})

    def chunks(self, event: Event | Finish, include_usage: bool) -> Iterator[dict[str, Any]]:
        """The chunks of one event. Usage stands on the finish chunk, as the hosted API sends
        it, or in a last chunk without choices if the client asked for one."""
        if isinstance(event, ReasoningDelta):
            yield self._chunk({"content": None, "reasoning_content": event.text})
        elif isinstance(event, ContentDelta):
            yield self._chunk({"content": event.text, "reasoning_content": None})
        elif isinstance(event, ToolCallStart):
            call = {
                "index": event.index,
                "id": event.id,
                "type": "function",
                "function": {"name": event.name, "arguments": ""},
            }
            yield self._chunk({"tool_calls": [call]})
        elif isinstance(event, ToolCallArgumentsDelta):
            part = {"index": event.index, "function": {"arguments": event.text}}
            yield self._chunk({"tool_calls": [part]})
        elif isinstance(event, Finish):
            usage = None if include_usage else event.usage
            yield self._chunk({"content": "", "reasoning_content": None}, event.reason, usage)
            if include_usage:
                yield self._object(
                    "chat.completion.chunk", choices=[], usage=usage_json(event.usage)
                )
        else:
            assert isinstance(event, ToolCallEnd)  # its arguments were sent piece by piece


def sse(value: dict[str, Any] | str) -> str:
    """One server-sent event."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return f"data: {text}\n\n"


KEEP_ALIVE = ": keep-alive\n\n"
DONE = sse("[DONE]")
