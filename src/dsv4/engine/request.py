"""What is asked of the engine and what comes back: ids in, ids out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from torch import Tensor

from dsv4.engine.constraint import Constraint
from dsv4.engine.sampler import Sampling
from dsv4.errors import UsageError

MOST_ALTERNATIVES = 20
"""Alternatives per token that a request may ask for, as the hosted API allows."""

FinishReason = Literal["stop", "length", "cancelled"]


@dataclass(frozen=True, slots=True)
class Generation:
    """One continuation to compute.

    `ids` are continued until one of `stop_ids` is drawn (it is not emitted), after `max_tokens`
    or at the end of the context. `alternatives`: how many likely tokens are reported with each
    one. `constraint` decides which tokens may come. `user` shares the machine fairly with other
    users, and nothing that was computed for one is reused for another. `routing`: report which
    experts every computed id went through.
    """

    ids: tuple[int, ...]
    max_tokens: int
    stop_ids: frozenset[int] = frozenset()
    sampling: Sampling = field(default_factory=Sampling)
    alternatives: int = 0
    constraint: Constraint | None = None
    user: str = ""
    routing: bool = False

    def __post_init__(self) -> None:
        if not self.ids:
            raise UsageError("there is nothing to continue: no ids", "give at least one token")
        if self.max_tokens < 1:
            raise UsageError(f"max_tokens = {self.max_tokens} is out of range", "at least 1")
        if not 0 <= self.alternatives <= MOST_ALTERNATIVES:
            raise UsageError(
                f"{self.alternatives} alternatives per token", f"0 to {MOST_ALTERNATIVES}"
            )


class Candidate(NamedTuple):
    """A token that might have been drawn, and its log-probability (-inf: it could not)."""

    id: int
    logprob: float


@dataclass(frozen=True, slots=True)
class Prefill:
    """`done` of the request's ids are in the state; `cached` of them were not computed again."""

    done: int
    cached: int


@dataclass(frozen=True, slots=True)
class Token:
    """One generated id, its log-probability in the distribution it was drawn from, and the most
    likely candidates of that distribution, best first."""

    id: int
    logprob: float
    candidates: tuple[Candidate, ...] = ()


@dataclass(frozen=True, slots=True)
class Finish:
    """The end: a stop id was drawn, the limit or the context reached, or it was cancelled.

    `cached`: ids of the prompt that were not computed again. `stop`: the stop id, which is not
    emitted. `routing`: experts `[T, L, K]` of every id but the newest in every layer, if asked for;
    -1 for the first `cached` ids.
    """

    reason: FinishReason
    cached: int = 0
    stop: Token | None = None
    routing: Tensor | None = field(default=None, compare=False)


Event = Prefill | Token | Finish
