"""GRPO as an objective of the training loop: sample, grade, learn, sample again.

Every sampled batch is used once: its groups are dealt to `updates` optimizer steps, of which all
but the first learn from answers of a policy some steps old.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import torch
from torch import Tensor

from dsv4 import ops
from dsv4.data.batches import Position
from dsv4.errors import UsageError
from dsv4.model.transformer import Transformer
from dsv4.training.answers import Answers, collate, hidden_states, micro_batches
from dsv4.training.grpo import Clip, advantages, chosen_logprobs, policy_terms
from dsv4.training.objective import Loss, Objective
from dsv4.training.questions import Question, Questions
from dsv4.training.rated import Rated, outcomes, pack, unpack
from dsv4.training.rollout import Actor, Ask, Sample


@dataclass(frozen=True, slots=True)
class GrpoSettings:
    """prompts: questions of a sampled batch. group: answers to each. updates: optimizer steps that
    a batch is dealt to. batch_tokens: ids of a micro-batch, with padding. learn_truncated: an
    answer that was cut off by its limit counts as the grader says; else it only counts in the
    mean of its group and teaches nothing itself."""

    prompts: int = 16
    group: int = 8
    updates: int = 1
    clip: Clip = field(default_factory=Clip)
    batch_tokens: int = 4096
    learn_truncated: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        if self.group < 2:
            raise UsageError(f"a group of {self.group} answers", "2 or more: they are compared")
        if not 1 <= self.updates <= self.prompts:
            raise UsageError(
                f"{self.updates} updates from {self.prompts} prompts", "at most one a prompt"
            )


@dataclass(frozen=True, slots=True)
class RatedBatch:
    """A micro-batch: `rated` are the samples of `answers` in their order."""

    answers: Answers
    rated: tuple[Rated, ...]


class GrpoObjective(Objective[RatedBatch]):
    """Trains a policy on questions.

    reference: the model that the KL term holds the policy to; needed if `clip.beta` is not 0.
    log: folder for a JSONL file of every sampled batch.
    """

    def __init__(
        self,
        model: Transformer,
        actor: Actor,
        questions: Questions,
        settings: GrpoSettings,
        *,
        log: Path,
        reference: Transformer | None = None,
    ) -> None:
        assert (reference is not None) == (settings.clip.beta > 0)
        self._model, self._actor, self._questions = model, actor, questions
        self._settings, self._reference, self._log = settings, reference, log
        self._rated: list[Rated] = []  # of the batch under way, group after group
        self._step: list[Rated] = []  # of the optimizer step under way

    def next(self, position: Position, step: int) -> tuple[list[RatedBatch], Position]:
        """Position: (sampled batch, update of it)."""
        settings, number, update = self._settings, position.epoch, position.index
        if update == 0:
            self._rated = self._sample(number)
        cuts = [settings.prompts * i // settings.updates for i in range(settings.updates + 1)]
        first, last = (settings.group * cut for cut in cuts[update : update + 2])
        self._step = self._rated[first:last]
        last_update = update + 1 == settings.updates
        after = Position(number + 1, 0) if last_update else Position(number, update + 1)
        return self._batches(self._step), after

    def loss(self, batch: RatedBatch, batches: Sequence[RatedBatch], step: int) -> Loss:
        model, clip = self._model, self._settings.clip
        answers = batch.answers.to(model.head.weight.device)
        x_MD = hidden_states(model, answers, replay=True)
        logits_MV = ops.linear_f32(x_MD, model.head.weight, model.numerics)
        logp_M, entropy = chosen_logprobs(logits_MV, answers.drawn_M)
        old_M = torch.tensor([p for s in answers.samples for p in s.logprobs]).to(logp_M)
        advantage_B = torch.tensor([rated.advantage for rated in batch.rated]).to(logp_M)
        terms = policy_terms(
            logp_M, old_M, self._reference_logprobs(answers), advantage_B, answers, clip
        )
        total = terms.loss_B.sum() / len(self._step)
        count = answers.drawn
        sums = {
            "loss": (float(terms.loss_B.detach().sum()), float(len(batch.rated))),
            "entropy": (entropy, count),
            "kl": (terms.kl, count),
            "clipped": (terms.clipped, count),
            "log_ratio": (terms.log_ratio, count),
            "masked": (terms.masked, float(len(batch.rated))),
        }
        if batch is batches[0]:
            sums |= outcomes(self._step)
        return Loss(total, sums, sum(len(rated.sample.ids) for rated in batch.rated))

    def state(self) -> dict[str, Tensor]:
        return pack(self._rated)

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        self._rated = unpack(tensors)

    @torch.no_grad()
    def _reference_logprobs(self, answers: Answers) -> Tensor | None:
        model = self._reference
        if model is None:
            return None
        x_MD = hidden_states(model, answers, replay=False)
        logits_MV = ops.linear_f32(x_MD, model.head.weight, model.numerics)
        return chosen_logprobs(logits_MV, answers.drawn_M)[0]

    def _batches(self, rated: Sequence[Rated]) -> list[RatedBatch]:
        """What the model has to read. Answers as good as the rest of their group have nothing to
        teach, unless it is to stay near the reference; one batch there always is."""
        teaching = [r for r in rated if r.advantage or self._settings.clip.beta] or rated[:1]
        by_sample = {id(r.sample): r for r in teaching}
        return [
            RatedBatch(collate(samples), tuple(by_sample[id(sample)] for sample in samples))
            for samples in micro_batches([r.sample for r in teaching], self._settings.batch_tokens)
        ]

    def _sample(self, number: int) -> list[Rated]:
        """Answers to a batch's questions, graded, group after group; all of it is logged."""
        settings = self._settings
        rng = Random(f"{settings.seed} {number}")
        questions = [self._questions.draw(rng) for _ in range(settings.prompts)]
        asks = [
            Ask(question.ids, question.max_tokens, draw_seed(settings.seed, number, i, k))
            for i, question in enumerate(questions)
            for k in range(settings.group)
        ]
        samples = self._actor.sample(asks)
        rated: list[Rated] = []
        for i, question in enumerate(questions):
            rated += self._rate(question, samples[i * settings.group : (i + 1) * settings.group])
        self._write(number, questions, rated)
        return rated

    def _rate(self, question: Question, samples: Sequence[Sample]) -> list[Rated]:
        scores = [question.grade(sample.answer) for sample in samples]
        rewards = [
            question.reward(sample.answer, score)
            for sample, score in zip(samples, scores, strict=True)
        ]
        centred = [
            advantage if sample.complete or self._settings.learn_truncated else 0.0
            for sample, advantage in zip(samples, advantages(rewards), strict=True)
        ]
        rows = zip(samples, scores, rewards, centred, strict=True)
        return [Rated(sample, question.kind, *numbers) for sample, *numbers in rows]

    def _write(self, number: int, questions: Sequence[Question], rated: Sequence[Rated]) -> None:
        self._log.mkdir(parents=True, exist_ok=True)
        group = self._settings.group
        with (self._log / f"{number:06d}.jsonl").open("w", encoding="utf-8") as file:
            for i, one in enumerate(rated):
                question = questions[i // group]
                record = {
                    "kind": one.kind,
                    "prompt": question.show(question.ids),
                    "answer": question.show(one.sample.answer),
                    "score": one.score,
                    "reward": one.reward,
                    "advantage": one.advantage,
                    "tokens": len(one.sample.answer),
                    "complete": one.sample.complete,
                }
                file.write(json.dumps(record, ensure_ascii=False) + "\n")


def draw_seed(*parts: int) -> int:
    """A 63-bit seed that follows from numbers."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
