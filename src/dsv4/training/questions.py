"""What rollouts answer: prompts of ids with a grader, drawn by chance."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Question:
    """One prompt. `kind` names what it is for metrics and teachers, such as `arithmetic:high`.

    max_tokens: ids an answer may have. penalty: what an answer of that length costs, a shorter
    one its share. grade: drawn ids, with the stop id if there is one -> score in [0, 1]. show:
    ids -> text for people.
    """

    kind: str
    ids: tuple[int, ...]
    max_tokens: int
    penalty: float
    grade: Callable[[Sequence[int]], float]
    show: Callable[[Sequence[int]], str]

    def reward(self, answer: Sequence[int], score: float) -> float:
        """The score less the cost of the length.

        An answer that earned nothing costs nothing: where no answer of a group is right, being
        short would otherwise be all there is to learn.
        """
        return score - self.penalty * len(answer) / self.max_tokens if score > 0 else 0.0


class Questions(Protocol):
    """Draws questions; equal generators draw equal ones."""

    def draw(self, rng: Random) -> Question: ...
