"""Events as the JSON of chat completions: one object, or server-sent chunks."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

from dsv4.chat.answer import Finish, Logprobs, Shown, Usage
from dsv4.encoding.events import (
    ContentDelta,
    ReasoningDelta,
    ToolCallArgumentsDelta,
    ToolCallEnd,
    ToolCallStart,
    collect,
)
from dsv4.server.envelope import token_json, usage_json
from dsv4.server.failure import body_of
from dsv4.server.sse import DONE, KEEP_ALIVE, data


class ChatAnswer:
    """One answer's envelope: id, time and model are the same in every chunk.

    `thinking`: it begins inside the reasoning. `counted`: a stream ends with a chunk of its own
    for the usage. `logprobs`: the client asked for them.
    """

    def __init__(
        self, model: str, fingerprint: str, *, thinking: bool, counted: bool, logprobs: bool
    ) -> None:
        self._head = {"id": str(uuid.uuid4()), "created": int(time.time()), "model": model}
        self._fingerprint = fingerprint
        self._thinking = thinking
        self._counted = counted
        self._logprobs: list[Logprobs] | None = [] if logprobs else None

    def whole(self, events: Sequence[Shown]) -> dict[str, Any]:
        finish = events[-1]
        assert isinstance(finish, Finish)
        for event in events:
            self._note(event)
        reply = collect(
            [event for event in events if not isinstance(event, (Finish, Logprobs))],
            thinking=self._thinking,
        )
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
            "logprobs": self._noted(),
            "finish_reason": finish.reason,
        }
        return self._object("chat.completion", choices=[choice], usage=usage_json(finish.usage))

    def first(self) -> Iterator[str]:
        text = (None, "") if self._thinking else ("", None)
        yield self._chunk({"role": "assistant", "content": text[0], "reasoning_content": text[1]})

    def begun(self, cached: int) -> Iterator[str]:
        yield from ()

    def pieces(self, event: Shown) -> Iterator[str]:
        """Log-probabilities travel with the next delta. Usage stands on the finish chunk, as the
        hosted API sends it, or in a last chunk without choices if the client asked for one."""
        self._note(event)
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
            usage = None if self._counted else event.usage
            yield self._chunk({"content": "", "reasoning_content": None}, event.reason, usage)
            if self._counted:
                counted = usage_json(event.usage)
                yield data(self._object("chat.completion.chunk", choices=[], usage=counted))
            yield DONE
        else:  # the arguments of a call were sent piece by piece
            assert isinstance(event, (ToolCallEnd, Logprobs))

    def waiting(self) -> str:
        return KEEP_ALIVE

    def failed(self, error: Exception) -> Iterator[str]:
        yield data(body_of(error))

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

    def _chunk(
        self, delta: dict[str, Any], reason: str | None = None, usage: Usage | None = None
    ) -> str:
        choice = {"index": 0, "delta": delta, "logprobs": self._noted(), "finish_reason": reason}
        counted = usage_json(usage) if usage else None
        return data(self._object("chat.completion.chunk", choices=[choice], usage=counted))

    def _note(self, event: Shown) -> None:
        if isinstance(event, Logprobs) and self._logprobs is not None:
            self._logprobs.append(event)

    def _noted(self) -> dict[str, Any] | None:
        """What was noted since the last time; None where there is nothing."""
        if not self._logprobs:
            return None
        noted = {
            "content": [token_json(entry) for entry in self._logprobs if not entry.reasoning],
            "reasoning_content": [token_json(entry) for entry in self._logprobs if entry.reasoning],
        }
        self._logprobs.clear()
        return noted
