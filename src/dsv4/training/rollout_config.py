"""Settings of sampling, shared by what learns from samples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from dsv4.encoding.tokenizer import Tokenizer
from dsv4.errors import UsageError
from dsv4.model.transformer import Transformer
from dsv4.tasks.problem import Effort
from dsv4.tasks.registry import task
from dsv4.training.policy import stop_ids
from dsv4.training.rollout import Actor
from dsv4.training.rollout_source import RolloutSource
from dsv4.training.rounding import released_formats
from dsv4.training.task_questions import LIMITS, Kind, Limit, TaskQuestions


@dataclass(frozen=True)
class RolloutConfig:
    """How a policy is sampled.

    kinds: tasks and efforts of the questions. prompts: questions of a batch; group: answers to
    each. limits: ids an answer may have, by effort. context: ids of prompt and answer together.
    """

    kinds: tuple[Kind, ...]
    prompts: int = 16
    group: int = 8
    limits: Mapping[Effort, Limit] = field(default_factory=lambda: LIMITS)
    context: int = 2048

    def __post_init__(self) -> None:
        if min(self.prompts, self.group, self.context) < 1:
            raise UsageError("prompts, answers to each and context are at least 1")

    def questions(self) -> list[str]:
        """The kinds of questions there are, such as `arithmetic:high`."""
        return [
            f"{kind.task}:{effort}"
            for kind in self.kinds
            for effort in ((kind.effort,) if kind.effort else task(kind.task).efforts)
        ]

    def source(
        self, model: Transformer, tokenizer: Tokenizer, *, quantised: bool, seed: int, log: Path
    ) -> RolloutSource:
        """Batches of answers of `model`. quantised: with weights in their released formats."""
        formats = released_formats(model.config) if quantised else {}
        context = min(self.context, model.config.max_position_embeddings)
        return RolloutSource(
            Actor(model, stop_ids(tokenizer), formats),
            TaskQuestions(tokenizer, self.kinds, context=context, limits=self.limits),
            self.prompts,
            self.group,
            log,
            seed,
        )
