"""What answers share: their writers, call ids, token counts and log-probabilities."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from dsv4.chat.answer import Alternative, Logprobs, Shown, Usage

IMPOSSIBLE = -9999.0
"""The log-probability, on the wire, of a token that could not be drawn."""


class Writer(Protocol):
    """One answer as a dialect writes it. Either `whole` is called, or first, then `pieces` for
    every event, the last of which is a Finish; `failed` may end it at any time."""

    def whole(self, events: Sequence[Shown]) -> dict[str, Any]:
        """The body of a response that is not streamed."""

    def first(self) -> Iterator[str]:
        """What a stream begins with, while the request waits."""

    def begun(self, cached: int) -> Iterator[str]:
        """What a stream says once, when the prompt is read; `cached` tokens of it were known."""

    def pieces(self, event: Shown) -> Iterator[str]:
        """What a stream says of an event."""

    def waiting(self) -> str:
        """What a stream says when there is nothing to say."""

    def failed(self, error: Exception) -> Iterator[str]:
        """The end of a stream that failed."""


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


def on_the_wire(logprob: float) -> float:
    """A log-probability that JSON can hold."""
    return max(logprob, IMPOSSIBLE)


def token_json(entry: Logprobs) -> dict[str, Any]:
    """A token and its alternatives, as chats and responses report them."""
    return {**_alternative(entry.token), "top_logprobs": [_alternative(a) for a in entry.top]}


def _alternative(token: Alternative) -> dict[str, Any]:
    return {
        "token": token.text,
        "logprob": on_the_wire(token.logprob),
        "bytes": list(token.bytes),
    }
