"""Events as the JSON of text completions."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

from dsv4.chat.answer import Finish, Logprobs, Shown
from dsv4.encoding.events import ContentDelta
from dsv4.server.envelope import on_the_wire, usage_json
from dsv4.server.failure import body_of
from dsv4.server.sse import DONE, KEEP_ALIVE, data


class CompletionAnswer:
    """One completion's envelope. `counted` and `logprobs` as in ChatAnswer."""

    def __init__(self, model: str, fingerprint: str, *, counted: bool, logprobs: bool) -> None:
        self._head = {"id": f"cmpl-{uuid.uuid4()}", "object": "text_completion"}
        self._tail = {
            "created": int(time.time()),
            "model": model,
            "system_fingerprint": fingerprint,
        }
        self._counted = counted
        self._logprobs: list[Logprobs] | None = [] if logprobs else None
        self._offset = 0

    def whole(self, events: Sequence[Shown]) -> dict[str, Any]:
        finish = events[-1]
        assert isinstance(finish, Finish)
        for event in events:
            self._note(event)
        text = "".join(event.text for event in events if isinstance(event, ContentDelta))
        return self._object(text, finish.reason) | {"usage": usage_json(finish.usage)}

    def first(self) -> Iterator[str]:
        yield from ()

    def begun(self, cached: int) -> Iterator[str]:
        yield from ()

    def pieces(self, event: Shown) -> Iterator[str]:
        self._note(event)
        if isinstance(event, ContentDelta):
            yield data(self._object(event.text) | {"usage": None})
        elif isinstance(event, Finish):
            usage = usage_json(event.usage)
            yield data(self._object("", event.reason) | {"usage": None if self._counted else usage})
            if self._counted:
                yield data({**self._head, "choices": [], **self._tail, "usage": usage})
            yield DONE

    def waiting(self) -> str:
        return KEEP_ALIVE

    def failed(self, error: Exception) -> Iterator[str]:
        yield data(body_of(error))

    def _object(self, text: str, reason: str | None = None) -> dict[str, Any]:
        choice = {"text": text, "index": 0, "logprobs": self._noted(), "finish_reason": reason}
        return {**self._head, "choices": [choice], **self._tail}

    def _note(self, event: Shown) -> None:
        if isinstance(event, Logprobs) and self._logprobs is not None:
            self._logprobs.append(event)

    def _noted(self) -> dict[str, Any] | None:
        """What was noted since the last time, in the form of this old endpoint."""
        if not self._logprobs:
            return None
        noted = list(self._logprobs)
        self._logprobs.clear()
        offsets = []
        for entry in noted:
            offsets.append(self._offset)
            self._offset += len(entry.token.text)
        return {
            "tokens": [entry.token.text for entry in noted],
            "token_logprobs": [on_the_wire(entry.token.logprob) for entry in noted],
            "top_logprobs": [
                {token.text: on_the_wire(token.logprob) for token in entry.top} for entry in noted
            ],
            "text_offset": offsets,
        }
