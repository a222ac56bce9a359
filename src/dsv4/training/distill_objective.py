"""Distillation as an objective of the training loop (V4 report, section 4.3).

    L = sum_i w_i KL(student || teacher_i)

On policy, the student answers questions and every answer is compared with the teacher of its
question's domain, at every drawn id; off policy, given texts are compared with one teacher.
Micro-batches come sorted by teacher, so that one teacher's head is in use at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

from dsv4.data.batches import Batches, Position
from dsv4.model.transformer import Transformer
from dsv4.training.answers import Answers, collate, from_batch, hidden_states, micro_batches
from dsv4.training.distill import reverse_kl
from dsv4.training.objective import Loss, Objective
from dsv4.training.rated import Rated, outcomes
from dsv4.training.rollout_source import RolloutSource
from dsv4.training.teacher import Teacher, teacher_of


@dataclass(frozen=True, slots=True)
class Lesson:
    """A micro-batch of one teacher, and what it made of it: inputs of its head `[M, E]`."""

    answers: Answers
    teacher: Teacher
    hidden_ME: Tensor
    tokens: int


class _Distillation(Objective[Lesson]):
    """The loss; the sub-classes say where lessons come from."""

    def __init__(self, model: Transformer) -> None:
        self._model = model
        self._rated: list[Rated] = []  # answers of the step under way, if there are any

    def _lesson(self, answers: Answers, teacher: Teacher, tokens: int) -> Lesson:
        return Lesson(answers, teacher, teacher.hidden(answers, self._model.numerics), tokens)

    def loss(self, batch: Lesson, batches: Sequence[Lesson], step: int) -> Loss:
        model, device = self._model, self._model.head.weight.device
        answers = batch.answers.to(device)
        x_MD = hidden_states(model, answers)
        config = batch.teacher.config
        kl_M = reverse_kl(
            x_MD,
            model.head.weight,
            batch.hidden_ME.to(device),
            batch.teacher.head_VE,
        )
        positions = sum(lesson.answers.drawn for lesson in batches)
        summed, count = float(kl_M.detach().sum()), float(answers.drawn)
        sums = {
            "loss": (config.weight * summed, count),
            f"kl.{config.name}": (summed, count),
        }
        if batch is batches[0]:
            sums |= outcomes(self._rated)
        return Loss(config.weight * kl_M.sum() / max(positions, 1), sums, batch.tokens)


class OnPolicy(_Distillation):
    """Learns from answers that the student gives now.

    batch_tokens: ids of a micro-batch. Raises UsageError, when it samples, for a question that no
    teacher teaches.
    """

    foresees = False

    def __init__(
        self,
        model: Transformer,
        source: RolloutSource,
        teachers: Sequence[Teacher],
        batch_tokens: int,
    ) -> None:
        super().__init__(model)
        self._source, self._teachers = source, tuple(teachers)
        self._batch_tokens = batch_tokens

    def next(self, position: Position, step: int) -> tuple[list[Lesson], Position]:
        """Position: (sampled batch, 0)."""
        self._rated = self._source.sample(position.epoch)
        return list(self._lessons(self._rated)), Position(position.epoch + 1, 0)

    def _lessons(self, rated: Sequence[Rated]) -> Iterator[Lesson]:
        configs = [teacher.config for teacher in self._teachers]
        taught = [teacher_of(one.kind, configs) for one in rated]
        for teacher in self._teachers:
            pairs = zip(rated, taught, strict=True)
            own = [one.sample for one, by in pairs if by is teacher.config]
            for samples in micro_batches(own, self._batch_tokens):
                answers = collate(samples)
                tokens = sum(len(sample.ids) for sample in samples)
                yield self._lesson(answers, teacher, tokens)


class OffPolicy(_Distillation):
    """Learns from given texts, at every id that their loss masks have learned."""

    def __init__(self, model: Transformer, batches: Batches, teacher: Teacher) -> None:
        super().__init__(model)
        self._batches, self._teacher = batches, teacher

    def next(self, position: Position, step: int) -> tuple[list[Lesson], Position]:
        batch, after = self._batches.next(position)
        answers = from_batch(batch)
        return [self._lesson(answers, self._teacher, batch.tokens)], after
