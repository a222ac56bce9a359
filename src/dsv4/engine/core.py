"""The engine: `step()` admits, runs, samples and commits. Not for use from two threads.

What a request is answered does not depend on what else runs: numbers of a token are the same in
any batch, piece or continuation (with kernels that promise it: `fast`), and draws follow from
the request alone.

V: vocabulary.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from itertools import count

import torch
from torch import Tensor

from dsv4.engine.forward import CHUNK, checked
from dsv4.engine.memory import Memory
from dsv4.engine.request import Generation, Prefill
from dsv4.engine.scheduler import Piece, Queue, pieces
from dsv4.engine.sequence import Deliver, Sequence
from dsv4.engine.speculation import Mode, Speculation
from dsv4.errors import RequestError, UsageError
from dsv4.model import transformer
from dsv4.model.transformer import Output, Transformer

logger = logging.getLogger("dsv4.engine")

MOST_RUNNING = 64
"""Sequences that are computed together."""

MOST_GUESSING = 4
"""Sequences beside which guessing may pay: many together read most weights anyway."""

BESIDE = 128
"""Ids of prompts that are read in a step for which others wait: bounds their pauses."""


@dataclass(slots=True)
class Counters:
    """What happened since the start."""

    steps: int = 0
    prompt_tokens: int = 0
    generated_tokens: int = 0
    preemptions: int = 0


class Core:
    """Requests of ids in, streams of ids out, over one model and the memory of its states."""

    def __init__(
        self,
        model: Transformer,
        memory: Memory,
        *,
        most_running: int = MOST_RUNNING,
        speculation: Mode = "auto",
    ) -> None:
        self.model, self.memory = model, memory
        self.queue = Queue()
        self.running: list[Sequence] = []
        self.counters = Counters()
        self.speculation = Speculation(model, speculation)
        self._most_running = most_running
        self._full = False
        """Whether the next request found no room."""
        self._numbers = count(1)

    @property
    def busy(self) -> bool:
        """Whether there is anything to do."""
        return bool(self.running) or len(self.queue) > 0

    def check(self, generation: Generation) -> None:
        """Raises UsageError for ids that are none of this model, or too many of them."""
        vocabulary = self.model.config.vocab_size
        for token in (min(generation.ids), max(generation.ids)):
            checked(token, vocabulary)
        for token, _ in generation.sampling.bias:
            checked(token, vocabulary)
        if len(generation.ids) >= self.memory.context:
            raise UsageError(
                f"{len(generation.ids)} tokens leave no room to answer in a context of "
                f"{self.memory.context}",
                "shorten the prompt",
            )

    def add(self, generation: Generation, deliver: Deliver) -> Sequence:
        """Queue a request that `check` accepted."""
        chain = self.memory.chain(generation.user)
        sequence = Sequence(generation, deliver, next(self._numbers), chain)
        self.queue.add(sequence)
        return sequence

    def step(self) -> None:
        """One pass of the model over everybody's next ids."""
        self._drop_cancelled()
        self._admit()
        chosen = self._fitting(pieces(self.running, self.queue, chunk=CHUNK, beside=BESIDE))
        if not chosen:
            return
        self.counters.steps += 1
        decoding = all(piece.sequence.decoding for piece in chosen)
        began, before = time.perf_counter(), self.counters.generated_tokens
        self._run(chosen)
        if decoding and len(chosen) <= MOST_GUESSING:
            tokens = self.counters.generated_tokens - before
            self.speculation.measured(len(chosen), tokens, time.perf_counter() - began)

    def preempt(self, sequence: Sequence) -> None:
        """Have a running sequence make way: it goes on later from what is then still kept."""
        self.running.remove(sequence)
        self.memory.release(sequence)
        self.queue.put_back(sequence)
        self._full = True
        self.counters.preemptions += 1

    def fail(self, error: Exception) -> None:
        """End every request with an error: the model cannot go on."""
        for sequence in [*self.running, *self.queue]:
            self._leave(sequence)
            self.memory.drop(sequence)
            sequence.deliver(error)

    def check_integrity(self) -> list[str]:
        """What is inconsistent, or held by nobody: nothing, unless there is a bug."""
        problems = self.memory.cache.check()
        if self.memory.holders != {*self.running}:
            problems.append("others than the running sequences hold states")
        used = sum(len(sequence.nodes) for sequence in self.running)
        if used != self.memory.cache.pins:
            problems.append(f"{self.memory.cache.pins} pins of blocks, {used} in use")
        if any(sequence.state is not None for sequence in self.queue):
            problems.append("a waiting sequence holds a state")
        return problems

    def _drop_cancelled(self) -> None:
        for sequence in [s for s in [*self.running, *self.queue] if s.cancelled]:
            sequence.reason = "cancelled"
            self._end(sequence)

    def _end(self, sequence: Sequence) -> None:
        """A sequence has its `reason`: tell, and keep what it computed."""
        self._leave(sequence)
        try:
            self.memory.release(sequence)
        except Exception:
            logger.exception("what a request computed is lost")
            self.memory.drop(sequence)
        finally:
            sequence.end()

    def _fail(self, sequence: Sequence, error: Exception) -> None:
        """End one request with an error."""
        logger.error("a request failed", exc_info=error)
        self._leave(sequence)
        self.memory.drop(sequence)
        sequence.deliver(error)

    def _leave(self, sequence: Sequence) -> None:
        if sequence in self.running:
            self.running.remove(sequence)
        else:
            self.queue.remove(sequence)
        self._full = False
        self.queue.gone(sequence.user)

    def _admit(self) -> None:
        """Let requests in while there is room. Once there is none, nobody is asked again before
        a request is over."""
        while len(self.running) < self._most_running and not (self._full and self.running):
            sequence = self.queue.peek()
            if sequence is None:
                return
            try:
                self._full = not self.memory.admit(sequence)
            except Exception as error:  # a record that is not what it seems, no memory
                self._fail(sequence, error)
                continue
            if not self._full:
                self.queue.remove(sequence)
                self.running.append(sequence)

    def _fitting(self, chosen: list[Piece]) -> list[Piece]:
        """The pieces that there is room for; the newest sequences make way for the others."""
        chosen = [Piece(one, self.memory.piece(one, count, one.length)) for one, count in chosen]
        while self.running:
            need = sum(self.memory.growth(piece.sequence, piece.length + 1) for piece in chosen)
            if self.memory.make_room(need) or len(self.running) == 1:
                break
            last = max(self.running, key=lambda sequence: sequence.number)
            self.preempt(last)
            chosen = [piece for piece in chosen if piece.sequence is not last]
        return chosen

    def _run(self, chosen: list[Piece]) -> None:
        inputs = [self._input(piece) for piece in chosen]
        starts = [piece.sequence.length for piece in chosen]
        with torch.no_grad():
            if self.model.streams_tables:
                self._read_ahead(chosen)
            outputs = self.model.forward_many(inputs)
        for piece, start, output in zip(chosen, starts, outputs, strict=True):
            sequence = piece.sequence
            self.queue.served(sequence.user, piece.length)
            if sequence.generation.routing:
                experts = [layer.experts_NK for layer in output.routing]
                sequence.routed(start, torch.stack(experts, 1))
            if not sequence.produced:
                self.counters.prompt_tokens += piece.length
                sequence.deliver(Prefill(sequence.length, sequence.cached or 0))
            try:
                self._advance(sequence, start + piece.length, output)
                if sequence.reason is None:
                    self._guess(sequence, start, output.streams_BTSD[0])
                    self.memory.commit(sequence)
            except Exception as error:  # of this request alone: its grammar, its logits
                self._fail(sequence, error)
                continue
            if sequence.reason is not None:
                self._end(sequence)
            elif self.model.streams_tables and sequence.waiting_ids == 1:
                assert sequence.state is not None  # as right after sampling as can be
                following = self._input(Piece(sequence, 1))
                self.model.read_ahead(following.ids_T, following.state)

    def _read_ahead(self, chosen: list[Piece]) -> None:
        """Have Engram's tables read what the parts of prompts will need that are computed after
        these pieces, if nobody comes or goes meanwhile."""
        lengths = {piece.sequence: piece.length for piece in chosen}
        next_ones = pieces(self.running, self.queue, chunk=CHUNK, beside=BESIDE, after=chosen)
        for sequence, length in next_ones:
            state, done = sequence.state, lengths.get(sequence, 0)
            assert state is not None
            start = state.length + done
            stop = start + self.memory.piece(sequence, length, start)
            if start < len(sequence.ids):  # otherwise its next id is not drawn yet
                ids_T = torch.tensor(sequence.ids[state.length : stop])
                self.model.read_ahead(ids_T, state, done)

    def _input(self, piece: Piece) -> transformer.Piece:
        """The next ids of a sequence, and the guess at what comes after them."""
        sequence, state = piece.sequence, piece.sequence.state
        assert state is not None
        stop = state.length + piece.length
        ids, wanted = sequence.ids[state.length : stop], int(stop == len(sequence.ids))
        if sequence.draft is not None and stop < self.memory.context:
            ids.append(sequence.draft)
            wanted += 1
        return transformer.Piece(torch.tensor(ids), state, wanted)

    def _advance(self, sequence: Sequence, stop: int, output: Output) -> None:
        """Draw what the logits allow; the piece ended before position `stop`, where a guess may
        stand."""
        state, logits_TV = sequence.state, output.logits_BTV[0]
        assert state is not None
        if not len(logits_TV):
            return
        self._draw(sequence, logits_TV[0])
        if state.length == stop:
            return
        right = len(sequence.ids) > stop and sequence.ids[stop] == sequence.draft
        if not right:
            state.rewind(stop)
        else:
            self.speculation.right += 1
            if sequence.reason is None:
                self._draw(sequence, logits_TV[1])

    def _draw(self, sequence: Sequence, logits_V: Tensor) -> None:
        constraint = sequence.generation.constraint
        allowed = constraint.allowed() if constraint is not None else None
        if allowed is not None and not bool(allowed.any()):
            raise RequestError(
                "the answer came to a place where its constraint allows nothing",
                "loosen the schema or the pattern",
                status=500,
                code="constraint_failed",
            )
        sequence.take(sequence.sampler.draw(logits_V, allowed), self.memory.context)
        self.counters.generated_tokens += 1

    def _guess(self, sequence: Sequence, start: int, streams_TSD: Tensor) -> None:
        """Guess on, while that pays, from the positions that were computed and whose next token is
        known."""
        if not self.speculation.active or len(self.running) > MOST_GUESSING:
            sequence.draft = None
            return
        known = sequence.length - start
        if sequence.waiting_ids == 1:
            skipped = max(0, known - self.model.config.sliding_window)
            self.speculation.guess(sequence, streams_TSD[skipped:known], start + skipped)
