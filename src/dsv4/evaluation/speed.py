"""Tokens per second of a loaded model: a prompt of some length, and decoding at some depth.

Depths are really computed: no made-up state. Ids are random, the same for every engine that draws
them alike (`benchmarks/peers.py` does).
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from dsv4.engine.forward import forward, require_finite
from dsv4.errors import UsageError
from dsv4.evaluation.machine import peak_bytes
from dsv4.model.transformer import Output, Transformer

WARMUP = 256
"""Ids computed before anything is timed: they bring the weights into memory."""

Done = Callable[[int], None]
"""Called with the number of ids computed so far."""


def ignore(done: int) -> None:
    """Nobody watches."""


@dataclass(frozen=True, slots=True)
class Timing:
    """One measurement: `tokens` ids took each of `seconds`.

    `kind`: "prefill" of `size` ids, or "decode" after `size` ids. `peak_bytes`: the process's
    high-water mark until then.
    """

    kind: str
    size: int
    tokens: int
    seconds: tuple[float, ...]
    peak_bytes: int

    @property
    def tokens_per_second(self) -> float:
        """Of the median repeat."""
        return self.tokens / statistics.median(self.seconds)


class Feed:
    """One sequence of random ids, fed from the start as far as it is asked for."""

    def __init__(self, model: Transformer, length: int, done: Done = ignore) -> None:
        context = model.config.max_position_embeddings
        if length > context:
            raise UsageError(f"{length} tokens exceed the context of {context}", "measure less")
        self._model, self._done, self._count = model, done, 0
        self.ids = random_ids(model.config.vocab_size, length)
        self.state = model.new_state()

    def restart(self) -> None:
        self.state = self._model.new_state()

    def fill(self, length: int) -> None:
        """Compute up to `length` ids, in chunks; from the start if the state is past it."""
        if self.state.length > length:
            self.restart()
        first = self.state.length
        if length == first:
            return
        self.state.reserve(length)
        for stop, _ in forward(self._model, self.ids[first:length], self.state, last_only=True):
            self._done(self._count + stop)
        self._count += length - first

    def step(self) -> Output:
        """Compute the next id alone."""
        ids = torch.tensor([[self.ids[self.state.length]]])
        with torch.no_grad():
            output: Output = self._model(ids, self.state, last_only=True)
        self._count += 1
        self._done(self._count)
        return output


def random_ids(vocabulary: int, count: int) -> list[int]:
    """The first `count` ids of the sequence that all measurements use."""
    rng = random.Random(0)
    return [rng.randrange(vocabulary) for _ in range(count)]


def warm_up(model: Transformer) -> None:
    """Bring weights and kernels into memory."""
    sequence = Feed(model, min(WARMUP, model.config.max_position_embeddings - 1) + 1)
    sequence.fill(len(sequence.ids) - 1)
    require_finite(sequence.step().logits_BTV)


def prefill(model: Transformer, length: int, repeat: int, done: Done = ignore) -> Timing:
    """The time from `length` ids to the logits of the last one, from an empty state."""
    sequence = Feed(model, length, done)
    seconds = []
    for _ in range(repeat):
        sequence.restart()
        began = time.perf_counter()
        sequence.fill(length)
        seconds.append(time.perf_counter() - began)
    return Timing("prefill", length, length, tuple(seconds), peak_bytes())


def decode(
    model: Transformer, depths: Sequence[int], tokens: int, repeat: int, done: Done = ignore
) -> Iterator[Timing]:
    """The time of `tokens` single steps after each depth; a repeat continues the one before."""
    longest = max(depths, default=0) + tokens * repeat
    sequence = Feed(model, longest, done)
    for depth in sorted(depths):
        sequence.fill(depth)
        seconds = []
        for _ in range(repeat):
            began = time.perf_counter()
            for _ in range(tokens):
                sequence.step()
            seconds.append(time.perf_counter() - began)
        yield Timing("decode", depth, tokens, tuple(seconds), peak_bytes())


def work(lengths: Sequence[int], depths: Sequence[int], tokens: int, repeat: int) -> int:
    """Ids that `prefill` of every length and `decode` at every depth will compute."""
    reached = total = 0
    for depth in sorted(depths):
        total += depth if depth < reached else depth - reached
        reached = depth + tokens * repeat
        total += tokens * repeat
    return total + repeat * sum(lengths)
