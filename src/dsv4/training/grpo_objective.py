"""GRPO as an objective of the training loop: sample, grade, learn, sample again.

Every sampled batch is used once: its groups are dealt to `updates` optimizer steps, of which all
but the first learn from answers of a policy some steps old.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from dsv4 import ops
from dsv4.data.batches import Position
from dsv4.errors import UsageError
from dsv4.model.transformer import Transformer
from dsv4.training.answers import Answers, collate, hidden_states, micro_batches
from dsv4.training.grpo import Clip, chosen_logprobs, policy_terms
from dsv4.training.objective import Loss, Objective
from dsv4.training.rated import Rated, outcomes, pack, unpack
from dsv4.training.rollout_source import RolloutSource
from dsv4.training.routing import Route


@dataclass(frozen=True, slots=True)
class GrpoSettings:
    """updates: optimizer steps that a sampled batch is dealt to. learn_truncated: an answer that
    its limit cut off counts as the grader says; else it counts in the mean of its group only and
    teaches nothing itself."""

    updates: int = 1
    clip: Clip = field(default_factory=Clip)
    learn_truncated: bool = True


@dataclass(frozen=True, slots=True)
class RatedBatch:
    """A micro-batch: `rated` are the samples of `answers` in their order."""

    answers: Answers
    rated: tuple[Rated, ...]


class GrpoObjective(Objective[RatedBatch]):
    """Trains a policy on questions.

    Answers go through the experts they were sampled by. reference: the model that the KL term
    holds the policy to; needed if `clip.beta` is not 0. batch_tokens: ids of a micro-batch, with
    padding.
    Raises UsageError for more updates than prompts and for groups of one.
    """

    foresees = False

    def __init__(
        self,
        model: Transformer,
        source: RolloutSource,
        settings: GrpoSettings,
        reference: Transformer | None = None,
        *,
        batch_tokens: int = 4096,
    ) -> None:
        assert (reference is not None) == (settings.clip.beta > 0)
        if not 1 <= settings.updates <= source.prompts:
            raise UsageError(
                f"{settings.updates} updates from {source.prompts} prompts", "at most one a prompt"
            )
        if source.group < 2:
            raise UsageError(f"a group of {source.group} answers", "2 or more: they are compared")
        self._model, self._source = model, source
        self._settings, self._reference = settings, reference
        self._batch_tokens = batch_tokens
        self._rated: list[Rated] = []  # of a batch that has updates left, group after group
        self._cuts: list[int] = []  # where the answers of each of its updates begin and end
        self._step: list[Rated] = []  # of the optimizer step under way

    def next(self, position: Position, step: int) -> tuple[list[RatedBatch], Position]:
        """Position: (sampled batch, update of it)."""
        settings, number, update = self._settings, position.epoch, position.index
        if update == 0:
            self._rated = self._source.sample(number)
        if update == 0 or not self._cuts:
            source, parts = self._source, settings.updates
            self._cuts = [source.prompts * i // parts * source.group for i in range(parts + 1)]
        first, last = self._cuts[update : update + 2]
        self._step = self._rated[first:last]
        if last < self._cuts[-1]:
            return self._batches(self._step), Position(number, update + 1)
        self._rated = []
        return self._batches(self._step), Position(number + 1, 0)

    def routes(self, batches: Sequence[RatedBatch]) -> list[Route]:
        """What computed the samples: a gradient is to belong to what was sampled."""
        hashed = self._model.config.num_hash_layers
        return [
            tuple(experts.flatten(0, 1) for experts in batch.answers.experts[hashed:])
            for batch in batches
        ]

    def loss(self, batch: RatedBatch, batches: Sequence[RatedBatch], step: int) -> Loss:
        model, clip = self._model, self._settings.clip
        answers = batch.answers.to(model.head.weight.device)
        x_MD = hidden_states(model, answers)
        logits_MV = ops.linear_f32(x_MD, model.head.weight, model.numerics)
        logp_M, entropy = chosen_logprobs(logits_MV, answers.drawn_M)
        old_M = torch.tensor([p for s in answers.samples for p in s.logprobs]).to(logp_M)
        advantage_B = torch.tensor([self._advantage(rated) for rated in batch.rated]).to(logp_M)
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
        return pack(self._rated) | {"cuts": torch.tensor(self._cuts)}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """A batch that has updates left is dealt to them as it was to be, whatever the settings
        are now."""
        self._rated = unpack(tensors)
        self._cuts = tensors["cuts"].tolist() if "cuts" in tensors else []

    def _advantage(self, rated: Rated) -> float:
        counts = rated.sample.complete or self._settings.learn_truncated
        return rated.advantage if counts else 0.0

    @torch.no_grad()
    def _reference_logprobs(self, answers: Answers) -> Tensor | None:
        model = self._reference
        if model is None:
            return None
        x_MD = hidden_states(model, answers)
        logits_MV = ops.linear_f32(x_MD, model.head.weight, model.numerics)
        return chosen_logprobs(logits_MV, answers.drawn_M)[0]

    def _batches(self, rated: Sequence[Rated]) -> list[RatedBatch]:
        """What the model has to read. Answers as good as the rest of their group have nothing to
        teach, unless it is to stay near the reference; one batch there always is."""
        held = self._settings.clip.beta > 0
        teaching = [r for r in rated if held or self._advantage(r)] or rated[:1]
        by_sample = {id(r.sample): r for r in teaching}
        return [
            RatedBatch(collate(samples), tuple(by_sample[id(sample)] for sample in samples))
            for samples in micro_batches([r.sample for r in teaching], self._batch_tokens)
        ]
