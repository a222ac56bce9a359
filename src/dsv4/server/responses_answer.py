"""Events as the JSON of responses: one object, or server-sent events with numbers."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from dsv4.chat.answer import Finish, Logprobs, Shown, Usage, unguessable
from dsv4.encoding.events import (
    ContentDelta,
    ReasoningDelta,
    ToolCallArgumentsDelta,
    ToolCallEnd,
    ToolCallStart,
)
from dsv4.server.envelope import token_json
from dsv4.server.failure import response_error
from dsv4.server.responses_items import seal
from dsv4.server.sse import event as named


class ResponsesAnswer:
    """One response while it is written, item after item.

    `echo`: what of the request stands in it. `custom`: names of tools whose input is text.
    `logprobs`: the client asked for them.
    """

    def __init__(
        self, model: str, echo: Mapping[str, Any], *, custom: frozenset[str], logprobs: bool
    ) -> None:
        self._response: dict[str, Any] = {
            "id": unguessable("resp_", 32),
            "object": "response",
            "created_at": int(time.time()),
            "completed_at": None,
            "status": "in_progress",
            "background": False,
            "error": None,
            "incomplete_details": None,
            "model": model,
            "output": [],
            "previous_response_id": None,
            "service_tier": "default",
            "store": False,
            "truncation": "disabled",
            "usage": None,
            **echo,
        }
        self._custom = custom
        self._number = -1
        self._item: dict[str, Any] | None = None
        """The item that is written; the response's output holds those that are done."""
        self._logprobs: list[dict[str, Any]] | None = [] if logprobs else None

    def whole(self, events: Sequence[Shown]) -> dict[str, Any]:
        for event in events:
            for _ in self._json(event):
                pass
        return self._response

    def first(self) -> Iterator[str]:
        for kind in ("response.created", "response.in_progress"):
            yield named(self._event(kind, response=self._response))

    def begun(self, cached: int) -> Iterator[str]:
        yield from ()

    def pieces(self, event: Shown) -> Iterator[str]:
        yield from map(named, self._json(event))

    def waiting(self) -> str:
        return named(self._event("response.in_progress", response=self._response))

    def failed(self, error: Exception) -> Iterator[str]:
        self._response |= {"status": "failed", "error": response_error(error)}
        yield named(self._event("response.failed", response=self._response))

    def _json(self, event: Shown) -> Iterator[dict[str, Any]]:
        if isinstance(event, ReasoningDelta):
            yield from self._in("reasoning")
            yield self._text_delta("response.reasoning_text.delta", event.text)
        elif isinstance(event, ContentDelta):
            yield from self._in("message")
            yield self._text_delta("response.output_text.delta", event.text, logprobs=self._noted())
        elif isinstance(event, ToolCallStart):
            yield from self._close()
            yield from self._open(self._call(event))
        elif isinstance(event, ToolCallArgumentsDelta):
            yield from self._arguments(event.text)
        elif isinstance(event, ToolCallEnd):
            yield from self._end_call(event)
        elif isinstance(event, Logprobs):
            if self._logprobs is not None and not event.reasoning:
                self._logprobs.append(token_json(event))
        else:
            yield from self._close()
            yield self._end(event)

    def _end(self, finish: Finish) -> dict[str, Any]:
        full = finish.reason == "length"
        status = "incomplete" if full else "completed"
        self._response |= {
            "status": status,
            "completed_at": None if full else int(time.time()),
            "incomplete_details": {"reason": "max_output_tokens"} if full else None,
            "usage": usage_json(finish.usage),
        }
        return self._event(f"response.{status}", response=self._response)

    def _in(self, kind: str) -> Iterator[dict[str, Any]]:
        """Make sure that an item of this kind, with its one part of text, is open."""
        if self._item is not None and self._item["type"] == kind:
            return
        yield from self._close()
        if kind == "reasoning":
            item: dict[str, Any] = {
                "id": unguessable("rs_", 32),
                "type": kind,
                "summary": [],
                "content": [],
            }
            part: dict[str, Any] = {"type": "reasoning_text", "text": ""}
        else:
            item = {"id": unguessable("msg_", 32), "type": kind, "role": "assistant", "content": []}
            part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
        yield from self._open(item)
        yield self._at("response.content_part.added", content_index=0, part=dict(part))
        item["content"] = [part]

    def _open(self, item: dict[str, Any]) -> Iterator[dict[str, Any]]:
        item["status"] = "in_progress"
        self._item = item
        yield self._event("response.output_item.added", output_index=self._index, item=dict(item))

    def _close(self) -> Iterator[dict[str, Any]]:
        """End the open item."""
        item = self._item
        if item is None:
            return
        if item["type"] in ("message", "reasoning"):
            (part,) = item["content"]
            if item["type"] == "message":
                part["logprobs"] += self._noted()
                done, more = "response.output_text.done", {"logprobs": part["logprobs"]}
            else:
                done, more = "response.reasoning_text.done", {}
                item["encrypted_content"] = seal(part["text"])
            yield self._at(done, content_index=0, text=part["text"], **more)
            yield self._at("response.content_part.done", content_index=0, part=part)
        item["status"] = "completed"
        yield self._event("response.output_item.done", output_index=self._index, item=item)
        self._response["output"].append(item)
        self._item = None

    def _text_delta(self, kind: str, text: str, **more: Any) -> dict[str, Any]:
        assert self._item is not None
        (part,) = self._item["content"]
        part["text"] += text
        if "logprobs" in more:
            part["logprobs"] += more["logprobs"]
        return self._at(kind, content_index=0, delta=text, **more)

    def _call(self, start: ToolCallStart) -> dict[str, Any]:
        called = {"call_id": start.id, "name": start.name}
        if start.name in self._custom:
            return {
                "id": unguessable("ctc_", 32),
                "type": "custom_tool_call",
                **called,
                "input": "",
            }
        return {"id": unguessable("fc_", 32), "type": "function_call", **called, "arguments": ""}

    def _arguments(self, text: str) -> Iterator[dict[str, Any]]:
        """Text is sent in one piece at its end, as it comes wrapped in JSON."""
        assert self._item is not None
        if self._item["type"] == "function_call":
            self._item["arguments"] += text
            yield self._at("response.function_call_arguments.delta", delta=text)

    def _end_call(self, end: ToolCallEnd) -> Iterator[dict[str, Any]]:
        """End a call. One that was cut off is never done: whoever acts on it would be wrong."""
        item = self._item
        assert item is not None
        if not end.complete:
            self._item = None
            return
        if item["type"] == "function_call":
            item["arguments"] = end.arguments
            yield self._at(
                "response.function_call_arguments.done",
                name=item["name"],
                arguments=end.arguments,
            )
        else:
            item["input"] = _plain(end.arguments)
            yield self._at("response.custom_tool_call_input.delta", delta=item["input"])
            yield self._at("response.custom_tool_call_input.done", input=item["input"])
        yield from self._close()

    @property
    def _index(self) -> int:
        return len(self._response["output"])

    def _at(self, kind: str, **fields: Any) -> dict[str, Any]:
        """An event about the open item."""
        assert self._item is not None
        where = {"item_id": self._item["id"], "output_index": self._index}
        return self._event(kind, **where, **fields)

    def _event(self, kind: str, **fields: Any) -> dict[str, Any]:
        self._number += 1
        return {"type": kind, "sequence_number": self._number, **fields}

    def _noted(self) -> list[dict[str, Any]]:
        """Log-probabilities since the last time."""
        noted = list(self._logprobs or ())
        if self._logprobs:
            self._logprobs.clear()
        return noted


def _plain(arguments: str) -> str:
    """The text in the arguments of a custom tool's call."""
    value = json.loads(arguments).get("input")
    return value if isinstance(value, str) else arguments


def usage_json(usage: Usage) -> dict[str, Any]:
    """Token counts as responses report them."""
    return {
        "input_tokens": usage.prompt,
        "input_tokens_details": {"cached_tokens": usage.cached},
        "output_tokens": usage.completion,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning},
        "total_tokens": usage.prompt + usage.completion,
    }
