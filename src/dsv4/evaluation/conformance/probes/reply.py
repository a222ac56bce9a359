"""One answer of a server, whole or put together from a stream."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Called:
    """A tool call as it was sent. `arguments`: JSON text, if the server is right."""

    id: str
    name: str
    arguments: str


@dataclass(slots=True)
class Reply:
    """What a server answered.

    `content`, `reasoning`: empty if there is none. `usage`: as sent, empty if there is none.
    `logprobs`: entries of the content's tokens, and those of the reasoning's in front of them.
    `broken`: sentences about what the protocol promises and this answer does not keep. `pieces`:
    chunks of a stream, 0 of a whole answer. `seconds`: until it was there.
    """

    status: int
    content: str = ""
    reasoning: str = ""
    calls: list[Called] = field(default_factory=list)
    finish: str = ""
    usage: dict[str, Any] = field(default_factory=dict)
    logprobs: list[dict[str, Any]] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    pieces: int = 0
    seconds: float = 0.0

    @property
    def said(self) -> tuple[str, str, tuple[tuple[str, str], ...], str]:
        """What has to be equal where answers have to be: all but ids, times and counts."""
        calls = tuple((call.name, call.arguments) for call in self.calls)
        return self.reasoning, self.content, calls, self.finish

    def count(self, name: str) -> int | None:
        """A count of the usage, None if it is not there (or is no count)."""
        value: Any = self.usage
        for part in name.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        return value if type(value) is int else None

    @property
    def cached(self) -> int | None:
        """Prompt tokens that were read from a cache, if the server tells."""
        found = self.count("prompt_tokens_details.cached_tokens")
        return self.count("prompt_cache_hit_tokens") if found is None else found


def whole(body: Mapping[str, Any], status: int, seconds: float) -> Reply:
    """An answer that came at once."""
    reply = Reply(status, seconds=seconds)
    reply.usage = _object(body.get("usage"))
    choices = body.get("choices")
    if not isinstance(choices, list) or not choices:
        reply.broken.append("the answer has no choices")
        return reply
    choice = _object(choices[0])
    message = _object(choice.get("message"))
    if not message:
        reply.broken.append("the choice has no message")
    _read(reply, message)
    for call in message.get("tool_calls") or []:
        _join(reply, call, len(reply.calls))
    _finish(reply, choice)
    if not reply.finish:
        reply.broken.append("there is no finish_reason")
    return reply


def joined(events: Iterable[str], seconds: float = 0.0) -> Reply:
    """An answer whose chunks came one by one; `events` is the data of each."""
    reply = Reply(200, seconds=seconds)
    ended, finishes, ids = False, 0, set()
    for event in events:
        if ended:
            reply.broken.append("something follows [DONE]")
        if event == "[DONE]":
            ended = True
            continue
        try:
            chunk = json.loads(event)
        except (ValueError, RecursionError):
            chunk = None
        if not isinstance(chunk, dict):
            reply.broken.append(f"an event is no JSON object: {event[:80]!r}")
            continue
        if chunk.get("error"):
            reply.broken.append(f"the stream ends with an error: {str(chunk['error'])[:200]}")
            continue
        reply.pieces += 1
        ids.add(chunk.get("id"))
        reply.usage = _object(chunk.get("usage")) or reply.usage
        choices = chunk.get("choices")
        for choice in choices if isinstance(choices, list) else ():
            delta = _object(_object(choice).get("delta"))
            if finishes and (delta.get("content") or delta.get("tool_calls")):
                reply.broken.append("text follows the finish_reason")
            _read(reply, delta)
            for call in delta.get("tool_calls") or []:
                _join(reply, call, _object(call).get("index", 0))
            finishes += bool(_object(choice).get("finish_reason"))
            _finish(reply, _object(choice))
    if not ended:
        reply.broken.append("the stream ends without [DONE]")
    if finishes != 1:
        reply.broken.append(f"the stream has {finishes} finish reasons")
    if len(ids) > 1:
        reply.broken.append(f"the chunks of one answer have {len(ids)} ids")
    return reply


def _read(reply: Reply, message: Mapping[str, Any]) -> None:
    for name, keys in (("content", ["content"]), ("reasoning", ["reasoning_content", "reasoning"])):
        text = next((message[key] for key in keys if message.get(key)), "")
        if isinstance(text, str):
            setattr(reply, name, getattr(reply, name) + text)
        else:
            reply.broken.append(f"{name} is no text: {str(text)[:80]}")


def _join(reply: Reply, call: object, index: object) -> None:
    """Add a call, or a piece of one, to those there are."""
    values = _object(call)
    function = _object(values.get("function"))
    if type(index) is not int or not 0 <= index <= len(reply.calls):
        reply.broken.append(f"a call has index {index!r} where {len(reply.calls)} were begun")
        return
    before = reply.calls[index] if index < len(reply.calls) else Called("", "", "")
    made = Called(
        before.id or str(values.get("id") or ""),
        before.name + str(function.get("name") or ""),
        before.arguments + _text(function.get("arguments")),
    )
    reply.calls[index : index + 1] = [made]


def _text(arguments: object) -> str:
    if arguments is None:
        return ""
    return arguments if isinstance(arguments, str) else f"\x00no text: {arguments!r}"


def _finish(reply: Reply, choice: Mapping[str, Any]) -> None:
    reply.finish = str(choice.get("finish_reason") or "") or reply.finish
    found = _object(choice.get("logprobs"))
    for key in ("reasoning_content", "content"):
        entries: Sequence[Any] = found.get(key) or ()
        reply.logprobs += [entry for entry in entries if isinstance(entry, dict)]


def _object(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
