"""Tokens in, events out: one answer while it is written. No threads, no clocks, no sockets."""

from __future__ import annotations

import secrets
import string
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from dsv4.chat.history import Turn
from dsv4.chat.plain import PlainText
from dsv4.chat.prepared import Prepared
from dsv4.chat.request import Completion
from dsv4.chat.stop import StopStrings
from dsv4.encoding.control import THINK_CLOSE
from dsv4.encoding.events import (
    ContentDelta,
    Event,
    ReasoningDelta,
    ToolCallEnd,
    ToolCallStart,
    collect,
)
from dsv4.encoding.stream import State, StreamParser
from dsv4.encoding.tokenizer import Tokenizer
from dsv4.engine import request as engine

_LETTERS = string.ascii_letters + string.digits

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


Shown = Event | Logprobs | Finish


def call_id(index: int) -> str:
    """An unguessable id for the call at `index` of an answer."""
    return unguessable(f"call_{index:02}_")


def unguessable(prefix: str, length: int = 20) -> str:
    """A fresh id."""
    return prefix + "".join(secrets.choice(_LETTERS) for _ in range(length))


class Answer:
    """Feed it what the engine delivers for a request; it gives the events of the answer.

    The answer may be over before the engine is (a stop string came): once `over`, whoever
    drives it cancels the request and feeds no more. That of a completion is content alone.
    """

    def __init__(self, prepared: Prepared, tokenizer: Tokenizer) -> None:
        request = prepared.request
        self._prepared = prepared
        self._tokenizer = tokenizer
        self._decoder = tokenizer.decoder()
        self._parser: StreamParser | PlainText
        self._echo = ""
        if isinstance(request, Completion):
            self._parser = PlainText()
            self._echo = request.prompt if request.echo else ""
        else:
            self._parser = StreamParser(thinking=prepared.opens_thinking, tools=request.tools)
        self._stop = StopStrings(request.stop)
        self._reasoning = self._calls = self._cached = 0
        self._ids: list[int] = []
        self._shown: list[Event] = []
        self._unreported: list[Logprobs] = []
        """Of tokens of which no text was shown yet: it may become markup."""
        self.over = False
        """Whether the Finish was given."""

    @property
    def malformed(self) -> Mapping[str, int]:
        """How often each kind of malformed markup was met."""
        return self._parser.malformed

    def feed(self, item: engine.Event) -> list[Shown]:
        """The events that follow from one token, or from the end."""
        if self.over:
            return []
        echo: list[Shown] = [ContentDelta(self._echo)] if self._echo else []
        self._echo = ""
        if isinstance(item, engine.Token):
            return echo + self._token(item)
        self._cached = item.cached
        return echo + (self._end(item.reason) if isinstance(item, engine.Finish) else [])

    def _token(self, item: engine.Token) -> list[Shown]:
        reasons = self._parser.state is State.REASON
        self._reasoning += reasons
        self._ids.append(item.id)
        if self._prepared.request.logprobs is not None and not self._tokenizer.is_control(item.id):
            self._unreported.append(self._likelihood(item, reasons))
        shown: list[Event] = []
        for piece in self._decoder.feed(item.id):
            shown += self._show(self._parser.feed(piece.text, control=piece.control))
        events = self._report(shown)
        if self._stop.hit or self._parser.done:
            events += self._end("stop")
        return events

    def _end(self, reason: engine.FinishReason) -> list[Shown]:
        events: list[Shown] = []
        if not self._stop.hit:
            rest = [e for piece in self._decoder.finish() for e in self._parser.feed(piece.text)]
            rest += self._parser.finish(truncated=reason != "stop")
            shown = list(self._show(rest))
            held = self._stop.finish()
            if held:
                shown.append(ContentDelta(held))
            events = self._report(shown)
            if reason == "stop":
                self._remember()
        named: FinishReason = "tool_calls" if self._calls and reason == "stop" else reason
        usage = Usage(len(self._prepared.ids), len(self._ids), self._reasoning, self._cached)
        self.over = True
        return [*events, Finish(named, usage, self._stop.found)]

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
            if isinstance(event, ToolCallStart):
                event = replace(event, id=call_id(event.index))
            if not isinstance(event, ContentDelta) and not self._stop.hit:
                yield event

    def _report(self, shown: list[Event]) -> list[Shown]:
        """The events, before them the log-probabilities of the tokens they come from."""
        self._shown += shown
        reported: list[Logprobs] = []
        if any(isinstance(event, (ReasoningDelta, ContentDelta)) for event in shown):
            reported = self._unreported.copy()
        if reported or self._parser.state is State.CALLS:
            self._unreported.clear()
        return [*reported, *shown]

    def _likelihood(self, item: engine.Token, reasoning: bool) -> Logprobs:
        known = self._tokenizer

        def alternative(token: int, logprob: float) -> Alternative:
            return Alternative(known.token(token), known.token_bytes(token), logprob)

        top = tuple(alternative(*candidate) for candidate in item.candidates)
        return Logprobs(alternative(item.id, item.logprob), top, reasoning)

    def _remember(self) -> None:
        """Hand on an answer that the model ended by itself, for the prompts that follow."""
        prepared, tokenizer = self._prepared, self._tokenizer
        thinking = prepared.opens_thinking
        if prepared.remember is None or (
            thinking and tokenizer.control_id(THINK_CLOSE) not in self._ids
        ):
            return
        reply = collect(self._shown, thinking=thinking)
        prepared.remember(
            Turn(
                user=prepared.request.user,
                prompt=prepared.digest,
                ids=(*self._ids, tokenizer.eos_id),
                reasoning=reply.reasoning,
                content=reply.content,
                calls=reply.tool_calls,
            )
        )
