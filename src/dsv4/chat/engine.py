"""Messages in, events out: renders the prompt, has ids generated, parses them while they come."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from queue import Empty, SimpleQueue
from typing import Any

from dsv4.chat.answer import Answer, Finish, Usage
from dsv4.chat.model import Model
from dsv4.chat.prepared import Prepared
from dsv4.chat.request import Request
from dsv4.encoding.chat import render
from dsv4.encoding.control import BOS, USER
from dsv4.encoding.events import ContentDelta, Event
from dsv4.encoding.messages import Message, fold_for_template
from dsv4.engine import request as ids_engine
from dsv4.engine.core import MOST_RUNNING, Core
from dsv4.engine.generate import never
from dsv4.engine.memory import Checkpoints, Memory, Store, default_capacity
from dsv4.engine.request import Generation, Prefill, Token
from dsv4.engine.sampler import Sampling
from dsv4.engine.sequence import Deliver
from dsv4.engine.service import MOST_WAITING, Service, Ticket
from dsv4.engine.speculation import Mode
from dsv4.errors import EncodingError, RequestError

POLL_SECONDS = 0.1
"""How often a waiting caller is asked whether it still wants its answer."""

Progress = Callable[[int, int], None]
"""Called with (prompt tokens read, prompt tokens in all)."""


class Engine:
    """One loaded model that answers any number of requests, from any thread.

    At most `running` are computed together and `queue` wait; their states and those that are kept
    take `kv_memory` bytes (None: a quarter of the machine's memory), and what is kept goes to
    `store` too. It computes on a thread of its own,
    which `close` ends. Raises EncodingError if the model's
    folder has no vocabulary, or one with more tokens than the model.
    """

    def __init__(
        self,
        model: Model,
        *,
        queue: int = MOST_WAITING,
        running: int = MOST_RUNNING,
        kv_memory: int | None = None,
        checkpoints: Checkpoints | None = None,
        store: Store | None = None,
        speculation: Mode = "auto",
    ) -> None:
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
        memory = Memory(
            model.transformer,
            default_capacity() if kv_memory is None else kv_memory,
            binding=model.binding,
            checkpoints=checkpoints,
            store=store,
        )
        core = Core(model.transformer, memory, most_running=running, speculation=speculation)
        self.service = Service(core, capacity=queue)
        # Also when nobody closes it: the thread ends with the last reference, or the program.
        weakref.finalize(self, self.service.close)

    @property
    def context(self) -> int:
        """Tokens that a conversation can have: those of the model, if the memory holds them."""
        return self.service.core.memory.context

    def integrity(self) -> dict[str, Any]:
        """What the engine holds, and `problems`: things held by nobody. Looked at while idle."""
        return self.service.integrity()

    def close(self) -> None:
        """End what is still running with an error, and the thread."""
        self.service.close()

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
        context = self.context
        if len(ids) + 1 > context:
            raise RequestError(
                f"this model's context is {context} tokens; the messages have {len(ids)}",
                "shorten the conversation",
                param="messages",
                code="context_length_exceeded",
            )
        return Prepared(request, tuple(ids), prompt.opens_thinking)

    def start(self, prepared: Prepared, deliver: Deliver) -> Ticket:
        """Queue a request; `deliver` gets what an `Answer` is fed, in the engine's thread.

        Raises RequestError when too many wait (429) or the engine is closed (503).
        """
        return self.service.submit(self._generation(prepared), deliver)

    def answer(
        self,
        prepared: Prepared,
        *,
        cancelled: Callable[[], bool] = never,
        progress: Progress | None = None,
    ) -> Iterator[Event | Finish]:
        """The events of an answer: deltas and calls as they come, then one Finish."""
        answer = Answer(prepared, self.model.tokenizer)
        for item in self._items(self._generation(prepared), cancelled, progress):
            yield from answer.feed(item)
            if answer.over:
                return

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
        ids = (tokenizer.bos_id, *tokenizer.encode(text))
        limit = defaults.max_tokens if max_tokens is None else max_tokens
        sampling = defaults.sampling() if sampling is None else sampling
        generation = Generation(ids, limit, self._stop_ids, sampling)
        decoder, count = tokenizer.decoder(), 0
        for item in self._items(generation, cancelled, progress):
            if isinstance(item, ids_engine.Finish):
                for piece in decoder.finish():
                    yield ContentDelta(piece.text)
                yield Finish(item.reason, Usage(len(ids), count, 0, item.cached))
            elif isinstance(item, Token):
                count += 1
                for piece in decoder.feed(item.id):
                    yield ContentDelta(piece.text)

    def _generation(self, prepared: Prepared) -> Generation:
        request = prepared.request
        return Generation(prepared.ids, request.max_tokens, self._stop_ids, request.sampling)

    def _items(
        self, generation: Generation, cancelled: Callable[[], bool], progress: Progress | None
    ) -> Iterator[ids_engine.Event]:
        """What the engine delivers; the request is cancelled when nobody reads on."""
        arrived: SimpleQueue[ids_engine.Event | Exception] = SimpleQueue()
        ticket = self.service.submit(generation, arrived.put)
        cached = 0
        try:
            while True:
                if cancelled():  # what was computed ahead is not asked for any more
                    yield ids_engine.Finish("cancelled", cached)
                    return
                try:
                    item = arrived.get(timeout=POLL_SECONDS)
                except Empty:
                    continue
                if isinstance(item, Exception):
                    raise item
                if isinstance(item, Prefill):
                    cached = item.cached
                    if progress is not None:
                        progress(item.done, len(generation.ids))
                yield item
                if isinstance(item, ids_engine.Finish):
                    return
        finally:
            ticket.cancel()
