"""Messages in, events out: renders the prompt, generates ids, parses them while they come."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from dsv4.chat.model import Model
from dsv4.chat.request import Request
from dsv4.chat.stop import StopStrings
from dsv4.encoding.chat import render
from dsv4.encoding.control import BOS, USER
from dsv4.encoding.events import ContentDelta, Event, ToolCallEnd
from dsv4.encoding.messages import Message, fold_for_template
from dsv4.encoding.stream import State, StreamParser
from dsv4.engine.generate import Finish as Finished
from dsv4.engine.generate import Limits, Token, generate, never
from dsv4.engine.sampler import Sampling
from dsv4.errors import EncodingError, RequestError

Progress = Callable[[int, int], None]
"""Called with (prompt tokens read, prompt tokens in all)."""

FinishReason = Literal["stop", "length", "tool_calls", "cancelled"]


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one request. `cached` prompt tokens were not computed again."""

    prompt: int
    completion: int
    reasoning: int
    cached: int = 0


@dataclass(frozen=True, slots=True)
class Finish:
    """The last event of an answer."""

    reason: FinishReason
    usage: Usage


@dataclass(frozen=True, slots=True)
class Prepared:
    """A request as ids. `opens_thinking`: the answer begins inside the reasoning."""

    request: Request
    ids: tuple[int, ...]
    opens_thinking: bool


class Engine:
    """One loaded model that answers one request at a time. Not for use from two threads.

    Raises EncodingError if the model's folder has no vocabulary, or one with more tokens than
    the model.
    """

    def __init__(self, model: Model) -> None:
        self.model = model
        tokenizer, size = model.tokenizer, model.config.vocab_size
        if tokenizer.vocab_size > size:
            raise EncodingError(
                f"the tokenizer has {tokenizer.vocab_size} tokens, the model {size}",
                "the tokenizer.json in this folder belongs to another model",
            )
        # A weak model that opens the next turn or document by itself has ended its answer.
        self._stop_ids = frozenset(
            {tokenizer.eos_id, tokenizer.control_id(BOS), tokenizer.control_id(USER)}
        )

    def chat(
        self,
        messages: Sequence[Message | Mapping[str, Any]],
        *,
        thinking: str | None = None,
        tools: Sequence[Mapping[str, Any]] = (),
        sampling: Sampling | None = None,
        max_tokens: int | None = None,
        progress: Progress | None = None,
    ) -> Iterator[Event | Finish]:
        """Answer a conversation; `thinking` is an effort level or `none`.

        What is left None is as the model folder says (`Model.defaults`).
        """
        defaults = self.model.defaults
        effort = defaults.effort if thinking is None else thinking
        sampling = defaults.sampling() if sampling is None else sampling
        limit = defaults.max_tokens if max_tokens is None else max_tokens
        request = Request(messages, tools, effort, sampling, limit)
        return self.answer(self.prepare(request), progress=progress)

    def prepare(self, request: Request) -> Prepared:
        """Render and encode a request; touches no weights, so any thread may do it.

        Raises EncodingError for a conversation that cannot be written, RequestError
        (`context_length_exceeded`) for one that is too long.
        """
        prompt = render(
            fold_for_template(request.messages),
            profile_name=self.model.profile,
            thinking=request.thinking,
            effort=request.level(self.model.profile),
            tools=request.tools or None,
        )
        ids = self.model.tokenizer.encode_prompt(prompt)
        context = self.model.config.max_position_embeddings
        if len(ids) + 1 > context:
            raise RequestError(
                f"this model's context is {context} tokens; the messages have {len(ids)}",
                "shorten the conversation",
                param="messages",
                code="context_length_exceeded",
            )
        return Prepared(request, tuple(ids), prompt.opens_thinking)

    def answer(
        self,
        prepared: Prepared,
        *,
        cancelled: Callable[[], bool] = never,
        progress: Progress | None = None,
    ) -> Iterator[Event | Finish]:
        """The events of an answer: deltas and calls as they come, then one Finish."""
        request = prepared.request
        tokens = generate(
            self.model.transformer,
            prepared.ids,
            Limits(request.max_tokens, self._stop_ids),
            request.sampling,
            cancelled=cancelled,
            progress=_of(len(prepared.ids), progress),
        )
        parser = StreamParser(thinking=prepared.opens_thinking, tools=request.tools)
        return self._events(len(prepared.ids), tokens, parser, StopStrings(request.stop))

    def _events(
        self,
        prompt_tokens: int,
        tokens: Iterator[Token | Finished],
        parser: StreamParser,
        stop: StopStrings,
    ) -> Iterator[Event | Finish]:
        decoder = self.model.tokenizer.decoder()
        completion = reasoning = calls = 0
        reason: FinishReason = "stop"
        for token in tokens:
            if isinstance(token, Finished):
                reason = token.reason
                break
            completion += 1
            reasoning += parser.state is State.REASON
            for piece in decoder.feed(token.id):
                for event in parser.feed(piece.text, control=piece.control):
                    calls += isinstance(event, ToolCallEnd) and event.complete
                    yield from _until_stop(event, stop)
            if stop.hit or parser.done:
                break
        if not stop.hit:
            rest = [event for piece in decoder.finish() for event in parser.feed(piece.text)]
            rest += parser.finish(truncated=reason in ("length", "cancelled"))
            for event in rest:
                calls += isinstance(event, ToolCallEnd) and event.complete
                yield from _until_stop(event, stop)
            held = stop.finish()
            if held:
                yield ContentDelta(held)
        if calls and reason == "stop":
            reason = "tool_calls"
        yield Finish(reason, Usage(prompt_tokens, completion, reasoning))

    def complete(
        self,
        text: str,
        *,
        sampling: Sampling | None = None,
        max_tokens: int | None = None,
        cancelled: Callable[[], bool] = never,
        progress: Progress | None = None,
    ) -> Iterator[ContentDelta | Finish]:
        """Continue plain text, as a base model does; no template, nothing is parsed."""
        tokenizer, defaults = self.model.tokenizer, self.model.defaults
        ids = [tokenizer.bos_id, *tokenizer.encode(text)]
        tokens = generate(
            self.model.transformer,
            ids,
            Limits(defaults.max_tokens if max_tokens is None else max_tokens, self._stop_ids),
            defaults.sampling() if sampling is None else sampling,
            cancelled=cancelled,
            progress=_of(len(ids), progress),
        )
        decoder = tokenizer.decoder()
        for count, token in enumerate(tokens):
            if isinstance(token, Finished):
                for piece in decoder.finish():
                    yield ContentDelta(piece.text)
                yield Finish(token.reason, Usage(len(ids), count, 0))
                return
            for piece in decoder.feed(token.id):
                yield ContentDelta(piece.text)


def _of(total: int, progress: Progress | None) -> Callable[[int], None] | None:
    """`progress` for a prompt of `total` tokens."""
    return None if progress is None else lambda done: progress(done, total)


def _until_stop(event: Event, stop: StopStrings) -> Iterator[Event]:
    """The event, its content cut where a stop string begins; what follows that is dropped."""
    # Anything else ends the content, so what was held back can no longer become a stop string.
    text = stop.feed(event.text) if isinstance(event, ContentDelta) else stop.finish()
    if text:
        yield ContentDelta(text)
    if not isinstance(event, ContentDelta) and not stop.hit:
        yield event
