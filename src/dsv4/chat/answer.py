"""Tokens in, events out: one answer while it is written. No threads, no clocks, no sockets."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

from dsv4.chat.prepared import Prepared
from dsv4.chat.stop import StopStrings
from dsv4.encoding.events import ContentDelta, Event, ToolCallEnd
from dsv4.encoding.stream import State, StreamParser
from dsv4.encoding.tokenizer import Tokenizer
from dsv4.engine import request as engine

FinishReason = Literal["stop", "length", "tool_calls", "cancelled"]


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one request. `cached` prompt tokens were not computed again."""

    prompt: int
    completion: int
    reasoning: int
    cached: int = 0


class Alternative(NamedTuple):
    """A token that was drawn or might have been; -inf: it could not be."""

    text: str
    bytes: bytes
    logprob: float


@dataclass(frozen=True, slots=True)
class Logprobs:
    """How likely the token behind the next deltas was, and what else might have come.

    `reasoning`: it belongs to the reasoning and not to the content.
    """

    token: Alternative
    top: tuple[Alternative, ...]
    reasoning: bool


@dataclass(frozen=True, slots=True)
class Finish:
    """The last event of an answer. `stop`: the stop string that ended it, if one did."""

    reason: FinishReason
    usage: Usage
    stop: str | None = None


class Answer:
    """Feed it what the engine delivers for a request; it gives the events of the answer.

    The answer may be over before the engine is (a stop string came): once `over`, whoever
    drives it cancels the request and feeds no more.
    """

    def __init__(self, prepared: Prepared, tokenizer: Tokenizer) -> None:
        request = prepared.request
        self._prompt = len(prepared.ids)
        self._decoder = tokenizer.decoder()
        self._parser = StreamParser(thinking=prepared.opens_thinking, tools=request.tools)
        self._stop = StopStrings(request.stop)
        self._completion = self._reasoning = self._calls = self._cached = 0
        self.over = False
        """Whether the Finish was given."""

    @property
    def malformed(self) -> Mapping[str, int]:
        """How often each kind of malformed markup was met."""
        return self._parser.malformed

    def feed(self, item: engine.Event) -> list[Event | Finish]:
        """The events that follow from one token, or from the end."""
        if self.over:
            return []
        if isinstance(item, engine.Prefill):
            self._cached = item.cached
            return []
        if isinstance(item, engine.Finish):
            self._cached = item.cached
            return self._end(item.reason)
        self._completion += 1
        self._reasoning += self._parser.state is State.REASON
        events: list[Event | Finish] = []
        for piece in self._decoder.feed(item.id):
            events += self._show(self._parser.feed(piece.text, control=piece.control))
        if self._stop.hit or self._parser.done:
            events += self._end("stop")
        return events

    def _end(self, reason: engine.FinishReason) -> list[Event | Finish]:
        events: list[Event | Finish] = []
        if not self._stop.hit:
            rest = [e for piece in self._decoder.finish() for e in self._parser.feed(piece.text)]
            rest += self._parser.finish(truncated=reason != "stop")
            events += self._show(rest)
            held = self._stop.finish()
            if held:
                events.append(ContentDelta(held))
        shown: FinishReason = "tool_calls" if self._calls and reason == "stop" else reason
        usage = Usage(self._prompt, self._completion, self._reasoning, self._cached)
        self.over = True
        return [*events, Finish(shown, usage, self._stop.found)]

    def _show(self, events: Iterable[Event]) -> Iterator[Event]:
        """The events, content cut where a stop string begins; what follows that is dropped."""
        for event in events:
            self._calls += isinstance(event, ToolCallEnd) and event.complete
            if isinstance(event, ContentDelta):
                text = self._stop.feed(event.text)
            else:  # the content ends: what was held back can be no stop string any more
                text = self._stop.finish()
            if text:
                yield ContentDelta(text)
            if not isinstance(event, ContentDelta) and not self._stop.hit:
                yield event
