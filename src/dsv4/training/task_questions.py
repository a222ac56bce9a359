"""Questions from the project's graded tasks (`dsv4.tasks`), with room and price by effort."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from random import Random
from typing import cast, get_args

from dsv4.encoding.tokenizer import Tokenizer
from dsv4.errors import UsageError
from dsv4.tasks.checks import grade_answer
from dsv4.tasks.problem import Ask, Effort, Problem
from dsv4.tasks.registry import generate, task
from dsv4.training.policy import stop_ids
from dsv4.training.questions import Question

_TRIES = 100


@dataclass(frozen=True, slots=True)
class Limit:
    """Ids an answer may have, and what an answer that long costs of a score of 1."""

    tokens: int
    penalty: float = 0.0

    def __post_init__(self) -> None:
        if self.tokens < 1 or not 0 <= self.penalty < 1:
            raise UsageError(f"{self} is out of range", "at least 1 token, a penalty below 1")


LIMITS: Mapping[Effort, Limit] = {
    "off": Limit(128, 0.2),
    "high": Limit(512, 0.1),
    "max": Limit(1024, 0.05),
}
"""The more a mode is to think, the more it may say and the less that costs."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A task, the effort it is asked with (None: as the task draws it), and how often."""

    task: str
    effort: Effort | None = None
    weight: float = 1.0

    @classmethod
    def parse(cls, text: str) -> Kind:
        """`NAME`, `NAME:EFFORT`, either with `=WEIGHT`. Raises UsageError."""
        named, _, weight = text.partition("=")
        name, _, effort = named.partition(":")
        try:
            share = float(weight) if weight else 1.0
        except ValueError:
            share = 0.0
        if not 0 < share < inf:
            raise UsageError(f"{text!r} has no finite weight above 0", "such as arithmetic:high=2")
        if effort and effort not in task(name).efforts:
            raise UsageError(
                f"task {name} has no effort {effort!r}", "it has " + ", ".join(task(name).efforts)
            )
        task(name)
        return cls(name, effort or None, share)


def parse_limits(texts: Sequence[str]) -> dict[Effort, Limit]:
    """LIMITS with those in `EFFORT=TOKENS` or `EFFORT=TOKENS:PENALTY` in their place."""
    limits = dict(LIMITS)
    for text in texts:
        effort, _, rest = text.partition("=")
        tokens, _, penalty = rest.partition(":")
        if effort not in get_args(Effort) or not tokens.isdecimal():
            raise UsageError(f"{text!r} is no limit", "such as high=512 or high=512:0.1")
        name = cast(Effort, effort)
        try:
            price = float(penalty) if penalty else limits[name].penalty
        except ValueError:
            raise UsageError(f"{text!r} is no limit", "such as high=512:0.1") from None
        limits[name] = Limit(int(tokens), price)
    return limits


class TaskQuestions:
    """Draws problems of `kinds` from their training split. A `Questions`.

    context: ids that prompt and answer may have together; a problem with a longer prompt is
    drawn again.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        kinds: Sequence[Kind],
        *,
        context: int,
        limits: Mapping[Effort, Limit] = LIMITS,
    ) -> None:
        if not kinds:
            raise UsageError("there are no questions without a task", "name one")
        self._tokenizer, self._kinds = tokenizer, tuple(kinds)
        self._context, self._limits = context, limits
        self._stops = stop_ids(tokenizer)

    def draw(self, rng: Random) -> Question:
        """Raises UsageError if a task has no problem short enough."""
        weights = [kind.weight for kind in self._kinds]
        kind = rng.choices(self._kinds, weights)[0]
        for _ in range(_TRIES):
            problem = generate(kind.task, rng, "train", Ask(effort=kind.effort))
            ids = tuple(self._tokenizer.encode_prompt(problem.prompt()))
            room = self._context - len(ids)
            if room > 0:
                limit = self._limits[problem.effort]
                return Question(
                    f"{problem.task}:{problem.effort}",
                    ids,
                    min(limit.tokens, room),
                    limit.penalty,
                    self._grader(problem),
                    self._tokenizer.decode,
                )
        raise UsageError(
            f"{_TRIES} problems of {kind.task} leave no room in {self._context} ids",
            "allow a longer context",
        )

    def _grader(self, problem: Problem) -> Callable[[Sequence[int]], float]:
        def score(answer: Sequence[int]) -> float:
            # One that says the right thing and goes on is not right: stopping is to be learned too.
            if not answer or answer[-1] not in self._stops:
                return 0.0
            decoder = self._tokenizer.decoder()
            pieces = [piece for token in answer for piece in decoder.feed(token)]
            spans = [(piece.text, piece.control) for piece in [*pieces, *decoder.finish()]]
            return grade_answer(problem.check, spans, thinking=problem.thinking).score

        return score
