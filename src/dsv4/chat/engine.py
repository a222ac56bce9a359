"""Messages in, events out: renders the prompt, has ids generated, parses them while they come."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from dsv4.cache.store import Store
from dsv4.chat.answer import Answer, Shown
from dsv4.chat.grammar import Grammars
from dsv4.chat.history import History
from dsv4.chat.model import Model
from dsv4.chat.prepared import Prepared
from dsv4.chat.request import Completion, Request, Schema
from dsv4.chat.rules import rules
from dsv4.chat.vocabulary import Vocabulary
from dsv4.encoding.chat import render
from dsv4.encoding.control import BOS, USER
from dsv4.encoding.fim import render_fim
from dsv4.encoding.messages import Message, fold_for_template
from dsv4.encoding.prompt import Prompt, PromptBuilder
from dsv4.engine import request as ids_engine
from dsv4.engine.core import MOST_RUNNING, Core
from dsv4.engine.generate import never
from dsv4.engine.memory import Checkpoints, Memory, default_capacity
from dsv4.engine.request import Generation, Prefill
from dsv4.engine.sampler import Sampling
from dsv4.engine.sequence import Deliver
from dsv4.engine.service import MOST_WAITING, Service, Ticket
from dsv4.engine.speculation import Mode
from dsv4.errors import EncodingError, RequestError

KV_DISK = 16 << 30
"""Bytes of a `kv_folder`, if nobody says otherwise."""

POLL_SECONDS = 0.1
"""How often a waiting caller is asked whether it still wants its answer."""

Progress = Callable[[int, int], None]
"""Called with (prompt tokens read, prompt tokens in all)."""


class Engine:
    """One loaded model that answers any number of requests, from any thread.

    At most `running` are computed together and `queue` wait. Their states, and what is kept for
    requests that begin alike, take `kv_memory` bytes (None: a quarter of the machine's memory);
    with a `kv_folder` that is kept there too, within `kv_disk` bytes, and outlives the process.
    `checkpoints` says where a sequence can be gone on from, `speculation` whether tokens are
    guessed ahead (`auto`: while that is faster); neither changes an answer.

    It computes on a thread of its own, which `close` ends. Raises EncodingError if the model's
    folder has no vocabulary, or one with more tokens than the model; UsageError for a
    `kv_folder` that another process uses, or too small a `kv_memory`.
    """

    def __init__(
        self,
        model: Model,
        *,
        queue: int = MOST_WAITING,
        running: int = MOST_RUNNING,
        kv_memory: int | None = None,
        checkpoints: Checkpoints | None = None,
        kv_folder: Path | str | None = None,
        kv_disk: int = KV_DISK,
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
        self.history = History()
        """Answers that were given, for the prompts that continue them."""
        self._grammars = Grammars(Vocabulary(tokenizer, size))
        store = None
        if kv_folder is not None:
            store = Store(Path(kv_folder).expanduser(), model.binding, kv_disk)
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

    def warm(self) -> None:
        """Do now what the first request with tools or a format would wait for, some seconds."""
        self._grammars.warm()

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
    ) -> Iterator[Shown]:
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
        """Render and encode a request, and compile what its answer is held to; touches no
        weights, so any thread may do it.

        Raises EncodingError for a conversation that cannot be written, RequestError for one
        that is too long (`context_length_exceeded`) and for tools or formats that no answer can
        be held to.
        """
        messages = fold_for_template(request.messages)
        shown = request.format
        prompt = render(
            messages,
            profile_name=self.model.profile,
            thinking=request.thinking,
            effort=request.level(self.model.profile),
            tools=request.tools or None,
            schema=shown.schema if isinstance(shown, Schema) and shown.described else None,
            recall=self.history.recall(request.user),
        )
        last = messages[-1]
        held = rules(
            request,
            self._grammars,
            thinking=prompt.opens_thinking,
            begun=last.content if last.prefix else "",
        )
        return Prepared(
            request,
            self._encoded(prompt, "messages"),
            prompt.opens_thinking,
            held,
            prompt.digest,
            None if last.prefix else self.history.remember,
        )

    def prepare_completion(self, completion: Completion) -> Prepared:
        """Encode plain text to continue, or a text with a hole.

        Raises RequestError (`context_length_exceeded`) if it is too long, EncodingError if this
        vocabulary cannot write a hole.
        """
        if completion.suffix is not None:
            prompt = render_fim(completion.prompt, completion.suffix)
        else:
            builder = PromptBuilder()
            builder.control(BOS)
            builder.content(completion.prompt)
            prompt = builder.build()
        return Prepared(completion, self._encoded(prompt, "prompt"), opens_thinking=False)

    def _encoded(self, prompt: Prompt, param: str) -> tuple[int, ...]:
        ids = self.model.tokenizer.encode_prompt(prompt)
        context = self.context
        if len(ids) + 1 > context:
            raise RequestError(
                f"this model's context is {context} tokens; the {param} have {len(ids)}"
                if param == "messages"
                else f"this model's context is {context} tokens; the {param} has {len(ids)}",
                f"shorten the {param}",
                param=param,
                code="context_length_exceeded",
            )
        return tuple(ids)

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
    ) -> Iterator[Shown]:
        """The events of an answer: deltas and calls as they come, then one Finish; of a
        completion, content alone."""
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
        progress: Progress | None = None,
    ) -> Iterator[Shown]:
        """Continue plain text, as a base model does; no template, nothing is parsed.

        What is left None is as the model folder says (`Model.defaults`).
        """
        defaults = self.model.defaults
        limit = defaults.max_tokens if max_tokens is None else max_tokens
        sampling = defaults.sampling() if sampling is None else sampling
        completion = Completion(text, sampling=sampling, max_tokens=limit)
        return self.answer(self.prepare_completion(completion), progress=progress)

    def _generation(self, prepared: Prepared) -> Generation:
        request = prepared.request
        return Generation(
            prepared.ids,
            request.max_tokens,
            self._stop_ids,
            request.sampling,
            alternatives=request.logprobs or 0,
            constraint=prepared.rules.constraint() if prepared.rules is not None else None,
            user=request.user,
        )

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
