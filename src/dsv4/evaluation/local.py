"""A model folder as a target: the project's own engine, many requests at once.

B: documents scored together, T: tokens of the longest, V: vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from functools import cached_property
from queue import SimpleQueue

import torch

from dsv4.chat.engine import Engine
from dsv4.chat.model import Model
from dsv4.data.documents import encode_document
from dsv4.encoding.chat import render
from dsv4.encoding.control import BOS
from dsv4.encoding.fim import render_fim
from dsv4.encoding.parse import parse
from dsv4.encoding.prompt import Prompt, PromptBuilder
from dsv4.encoding.tokenizer import Tokenizer
from dsv4.engine.forward import require_finite
from dsv4.engine.request import Event, Finish, Generation, Token
from dsv4.engine.sequence import Deliver
from dsv4.errors import ParseError
from dsv4.evaluation.question import Answer, Chat, Fill, Likelihood, Question, Said, Scored

WINDOW = 2048
"""Tokens of a document that are one context. What is longer goes on behind a new BOS."""

STEP = 2048
"""Tokens that are scored in one forward pass (at least one document)."""

OUTSTANDING = 256
"""Requests given to the engine at a time."""


class LocalModel:
    """A loaded model. Answers are those of its engine without constraints: nothing is repaired,
    and only EOS ends a reply."""

    likelihoods = True

    def __init__(self, model: Model) -> None:
        self.model = model
        self.name = model.name
        self.fingerprint = model.binding.hex()

    @property
    def context(self) -> int:
        return self._engine.context

    def close(self) -> None:
        """End the engine's thread, if there is one."""
        if "_engine" in self.__dict__:
            self._engine.close()

    def length(self, question: Question) -> int:
        if isinstance(question, Likelihood):
            documents = question.documents
            return sum(len(encode_document(self.model.tokenizer, d).ids) for d in documents)
        return len(self.prompt_ids(question))

    def answer(self, questions: Iterable[Question]) -> Iterator[tuple[int, Answer]]:
        said: dict[int, Chat | Fill] = {}
        scored: dict[int, Likelihood] = {}
        for i, question in enumerate(questions):
            if isinstance(question, Likelihood):
                scored[i] = question
            else:
                said[i] = question
        yield from self._score(scored)
        yield from self._generate(said)

    @cached_property
    def _engine(self) -> Engine:
        return Engine(self.model, queue=2 * OUTSTANDING, speculation="off")

    def prompt_ids(self, question: Chat | Fill) -> list[int]:
        """What the model is shown."""
        return self.model.tokenizer.encode_prompt(_prompt(question, self.model.profile))

    def _generate(self, questions: dict[int, Chat | Fill]) -> Iterator[tuple[int, Said]]:
        arrived: SimpleQueue[tuple[int, Event | Exception]] = SimpleQueue()
        waiting = iter(questions.items())
        written: dict[int, list[int]] = {}
        tickets = {}

        def deliver(i: int) -> Deliver:
            return lambda event: arrived.put((i, event))

        def start() -> None:
            for i, question in waiting:
                generation = Generation(
                    tuple(self.prompt_ids(question)),
                    question.max_tokens,
                    frozenset({self.model.tokenizer.eos_id}),
                    question.sampling,
                )
                written[i] = []
                tickets[i] = self._engine.service.submit(generation, deliver(i))
                return

        try:
            for _ in range(min(OUTSTANDING, len(questions))):
                start()
            while written:
                i, event = arrived.get()
                if isinstance(event, Exception):
                    raise event
                if isinstance(event, Token):
                    written[i].append(event.id)
                elif isinstance(event, Finish):
                    del tickets[i]
                    ids = written.pop(i)
                    start()
                    yield i, self._said(questions[i], ids, event.reason == "stop")
        finally:
            for ticket in tickets.values():
                ticket.cancel()

    def _said(self, question: Chat | Fill, ids: list[int], finished: bool) -> Said:
        decoder = self.model.tokenizer.decoder()
        pieces = [piece for index in ids for piece in decoder.feed(index)] + decoder.finish()
        thinking = isinstance(question, Chat) and question.effort != "off"
        try:
            reply = parse(pieces, thinking=thinking)
        except ParseError:
            reply = None
        return Said("".join(piece.text for piece in pieces), reply, finished, len(ids))

    def _score(self, questions: dict[int, Likelihood]) -> Iterator[tuple[int, Scored]]:
        windows: list[tuple[int, int, list[int], list[bool]]] = []
        sums: dict[int, list[list[float]]] = {}
        missing: dict[int, int] = {}
        counts: dict[int, list[int]] = {}
        for i, question in questions.items():
            sums[i] = [[] for _ in question.documents]
            counts[i] = [0 for _ in question.documents]
            missing[i] = 0
            for j, (ids, learned) in enumerate(encoded(self.model.tokenizer, question)):
                counts[i][j] = sum(learned)
                for start in range(0, len(ids) - 1, WINDOW - 1):
                    part = slice(start + 1, start + WINDOW)
                    windows.append((i, j, [ids[0], *ids[part]], learned[part]))
                    missing[i] += 1
        windows.sort(key=lambda window: len(window[2]), reverse=True)
        at = 0
        while at < len(windows):
            stop = at + max(1, STEP // len(windows[at][2]))
            batch = windows[at:stop]
            at = stop
            totals = self._logprobs([w[2] for w in batch], [w[3] for w in batch])
            for (i, j, _, _), total in zip(batch, totals, strict=True):
                sums[i][j].append(total)
                missing[i] -= 1
                if not missing[i]:
                    yield i, Scored(tuple(map(math.fsum, sums[i])), tuple(counts[i]))

    def _logprobs(self, rows: list[list[int]], learned: list[list[bool]]) -> list[float]:
        """Log-probability of the learned ids of every row; `learned` is about all but its first.

        Rows are padded at their ends, which nothing before can see.
        """
        T = max(len(row) for row in rows)
        ids_BT = torch.tensor([row + [row[0]] * (T - len(row)) for row in rows])
        mask_BT = torch.tensor([marks + [False] * (T - 1 - len(marks)) for marks in learned])
        with torch.no_grad():
            logits_BTV = self.model.transformer(ids_BT[:, :-1]).logits_BTV
            require_finite(logits_BTV)
            picked_BT = logits_BTV.gather(2, ids_BT[:, 1:, None])[..., 0]
            logprob_BT = picked_BT.double() - logits_BTV.logsumexp(2).double()
            totals: list[float] = logprob_BT.where(mask_BT, 0.0).sum(1).tolist()
        return totals


def encoded(tokenizer: Tokenizer, question: Likelihood) -> Iterator[tuple[list[int], list[bool]]]:
    """Ids of every document and which of them count."""
    for document in question.documents:
        ids, learned = encode_document(tokenizer, document)
        if not question.end:
            learned = [*learned[:-1], False]
        yield ids, learned


def _prompt(question: Chat | Fill, profile: str) -> Prompt:
    if isinstance(question, Chat):
        thinking = question.effort != "off"
        return render(
            question.messages,
            profile_name=profile,
            thinking=thinking,
            effort=question.effort if thinking else None,
            tools=question.tools,
        )
    if question.suffix is not None:
        return render_fim(question.prefix, question.suffix)
    builder = PromptBuilder()
    builder.control(BOS)
    builder.content(question.prefix)
    return builder.build()
