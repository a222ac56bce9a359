"""The engine: `step()` admits, runs, samples and commits. Not for use from two threads.

V: vocabulary.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator

import torch
from torch import Tensor

from dsv4.engine.forward import CHUNK, checked
from dsv4.engine.request import Generation, Prefill
from dsv4.engine.scheduler import Piece, Queue, pieces
from dsv4.engine.sequence import Deliver, Sequence
from dsv4.errors import UsageError
from dsv4.model.transformer import Transformer

logger = logging.getLogger("dsv4.engine")

MOST_RUNNING = 64
"""Sequences that are computed together."""

BESIDE = 128
"""Ids of prompts that are read in a step for which others wait: bounds their pauses."""


class Core:
    """Requests of ids in, streams of ids out, over one model."""

    def __init__(self, model: Transformer, *, most_running: int = MOST_RUNNING) -> None:
        self.model = model
        self.queue = Queue()
        self.running: list[Sequence] = []
        self._most_running = most_running
        self._numbers = 0

    @property
    def busy(self) -> bool:
        """Whether there is anything to do."""
        return bool(self.running) or len(self.queue) > 0

    def check(self, generation: Generation) -> None:
        """Raises UsageError for ids that are none of this model, or too many of them."""
        vocabulary = self.model.config.vocab_size
        for token in generation.ids:
            checked(token, vocabulary)
        for token, _ in generation.sampling.bias:
            checked(token, vocabulary)
        context = self.model.config.max_position_embeddings
        if len(generation.ids) >= context:
            raise UsageError(
                f"{len(generation.ids)} tokens leave no room to answer in a context of {context}",
                "shorten the prompt",
            )

    def add(self, generation: Generation, deliver: Deliver) -> Sequence:
        """Queue a request that `check` accepted."""
        self._numbers += 1
        sequence = Sequence(generation, deliver, self._numbers)
        self.queue.add(sequence)
        return sequence

    def step(self) -> None:
        """One pass of the model over everybody's next ids."""
        self._drop_cancelled()
        self._admit()
        chosen = pieces(self.running, self.queue, chunk=CHUNK, beside=BESIDE)
        if chosen:
            self._run(chosen)

    def fail(self, error: Exception) -> None:
        """End every request with an error: the model cannot go on."""
        for sequence in [*self.running, *self.queue]:
            self._leave(sequence)
            sequence.deliver(error)

    def _drop_cancelled(self) -> None:
        for sequence in [s for s in [*self.running, *self.queue] if s.cancelled]:
            sequence.reason = "cancelled"
            self._leave(sequence)
            sequence.end()

    def _leave(self, sequence: Sequence) -> None:
        """Take a sequence out, with what it holds."""
        if sequence in self.running:
            self.running.remove(sequence)
        else:
            self.queue.remove(sequence)
        sequence.state = None

    def _admit(self) -> None:
        while len(self.running) < self._most_running:
            sequence = self.queue.peek()
            if sequence is None:
                return
            self.queue.remove(sequence)
            sequence.state = self.model.new_state()
            self.running.append(sequence)

    def _run(self, chosen: list[Piece]) -> None:
        for piece, logits_V in self._logits(chosen):
            sequence = piece.sequence
            self.queue.served(sequence.user, piece.length)
            if logits_V is None or not sequence.produced:
                assert sequence.state is not None
                sequence.deliver(Prefill(sequence.state.length, sequence.cached))
            if logits_V is None:
                continue
            try:
                self._sample(sequence, logits_V)
            except Exception as error:  # of this request alone: its grammar, its logits
                logger.exception("a request failed")
                self._leave(sequence)
                sequence.deliver(error)

    def _sample(self, sequence: Sequence, logits_V: Tensor) -> None:
        constraint = sequence.generation.constraint
        allowed = constraint.allowed() if constraint is not None else None
        draw = sequence.sampler.draw(logits_V, allowed)
        sequence.take(draw, self.model.config.max_position_embeddings)
        if sequence.reason is not None:
            self._leave(sequence)
            sequence.end()

    def _logits(self, chosen: list[Piece]) -> Iterator[tuple[Piece, Tensor | None]]:
        """Feed the pieces; logits `[V]` where a piece reaches the end of its ids."""
        for piece in chosen:
            sequence, state = piece.sequence, piece.sequence.state
            assert state is not None
            ids = sequence.ids[state.length : state.length + piece.length]
            with torch.no_grad():
                output = self.model(torch.tensor([ids]), state, last_only=True)
            yield piece, output.logits_BTV[0, -1] if not sequence.waiting_ids else None
