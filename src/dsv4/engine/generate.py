"""One request: ids in, a stream of ids out. The first version runs one request at a time.

T: tokens, V: vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from dsv4.engine.forward import CHUNK, forward
from dsv4.engine.sampler import Sampler, Sampling
from dsv4.errors import UsageError
from dsv4.model.state import State
from dsv4.model.transformer import Transformer


@dataclass(frozen=True, slots=True)
class Token:
    """One generated id and its log-probability."""

    id: int
    logprob: float


@dataclass(frozen=True, slots=True)
class Finish:
    """The end of a generation: a stop id was drawn, the limit reached, or it was cancelled."""

    reason: Literal["stop", "length", "cancelled"]


@dataclass(frozen=True, slots=True)
class Limits:
    """When to stop: after `max_tokens`, or on one of `stop_ids` (which is not emitted)."""

    max_tokens: int
    stop_ids: frozenset[int] = frozenset()

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise UsageError(f"max_tokens = {self.max_tokens} is out of range", "at least 1")


def never() -> bool:
    """The answer of a request that nobody can cancel."""
    return False


def prefill(
    model: Transformer,
    ids: Sequence[int],
    state: State,
    *,
    chunk: int = CHUNK,
    cancelled: Callable[[], bool] = never,
    progress: Callable[[int], None] | None = None,
) -> Tensor | None:
    """Feed `ids` to `state` in chunks; the logits `[V]` after the last one.

    `progress` is called with the number of ids done so far. Returns None if `cancelled`
    answered True between two chunks; `state` then holds the chunks done.
    """
    logits_V = None
    pieces = forward(model, ids, state, chunk=chunk, last_only=True)
    for _ in range(0, len(ids), chunk):
        if cancelled():
            return None
        done, logits_TV = next(pieces)
        logits_V = logits_TV[-1]
        if progress:
            progress(done)
    return logits_V


def generate(
    model: Transformer,
    ids: Sequence[int],
    limits: Limits,
    sampling: Sampling | None = None,
    *,
    state: State | None = None,
    chunk: int = CHUNK,
    cancelled: Callable[[], bool] = never,
    progress: Callable[[int], None] | None = None,
) -> Iterator[Token | Finish]:
    """Continue `ids` (following `state`, if given): some `Token`, then one `Finish`.

    The generator does one model step per token and can be closed at any time. Raises
    UsageError if nothing was given to continue or the context is too small for `ids`.
    """
    if not ids:
        raise UsageError("there is nothing to continue: no ids", "give at least one token")
    state = model.new_state() if state is None else state
    room = model.config.max_position_embeddings - state.length
    if len(ids) >= room:
        raise UsageError(
            f"{len(ids)} tokens leave no room to answer in a context of {room}",
            "shorten the prompt",
        )
    return _steps(model, ids, limits, sampling or Sampling(), state, chunk, cancelled, progress)


def _steps(
    model: Transformer,
    ids: Sequence[int],
    limits: Limits,
    sampling: Sampling,
    state: State,
    chunk: int,
    cancelled: Callable[[], bool],
    progress: Callable[[int], None] | None,
) -> Iterator[Token | Finish]:
    sampler = Sampler(sampling)
    logits_V = prefill(model, ids, state, chunk=chunk, cancelled=cancelled, progress=progress)
    most = min(limits.max_tokens, model.config.max_position_embeddings - state.length)
    for count in range(1, most + 1):
        if logits_V is None or cancelled():
            yield Finish("cancelled")
            return
        token, logprob = sampler.pick(logits_V)
        if token in limits.stop_ids:
            yield Finish("stop")
            return
        yield Token(token, logprob)
        if count < most:
            with torch.no_grad():
                output = model(torch.tensor([[token]]), state, last_only=True)
            logits_V = output.logits_BTV[0, -1]
    yield Finish("length")
