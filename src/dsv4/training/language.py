"""The language objective: next token, MTP, expert balance and the indexers' own loss.

Pre-training and supervised fine-tuning are both this; they differ in where batches come from and
in the loss mask that a batch may carry.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn

from dsv4.config import ModelConfig
from dsv4.data.batches import Batch, Batches, Mix, Position
from dsv4.model.attention import Reading
from dsv4.training.indexer import (
    count_queries,
    indexer_loss,
    is_indexer,
    observed,
    read_densely,
)
from dsv4.training.loss import LanguageModel, compute_losses, count_targets, cross_entropy
from dsv4.training.objective import Loss, Objective, Sums
from dsv4.training.schedule import Schedule


class Stream:
    """The batches of a run whose rows grow: one endless sequence per stage of the schedule.

    A stage begins at its own position 0, in an order of its own. (Documents are cut into other
    rows, so there is no place in them to go on from.)
    """

    def __init__(
        self, mix: Mix, schedule: Schedule, *, batch_tokens: int, max_length: int, seed: int
    ) -> None:
        """max_length: longest row in the end. Errors are those of `Batches`."""
        self._schedule = schedule
        self._lengths = [*(length for _, length in schedule.lengths), max_length]
        self._stages = [
            Batches(mix, batch_tokens=batch_tokens, max_length=length, seed=seed + stage)
            for stage, length in enumerate(self._lengths)
        ]

    def length(self, step: int) -> int:
        """Longest row of a step."""
        return self._lengths[self._schedule.stage(step)]

    def next(self, position: Position, step: int) -> tuple[list[Batch], Position]:
        """The micro-batches of a step and the position after them."""
        stage = self._schedule.stage(step)
        if step and stage != self._schedule.stage(step - 1):
            position = Position()
        made = []
        for _ in range(self._schedule.micro_batches(step)):
            batch, position = self._stages[stage].next(position)
            made.append(batch)
        return made, position


class LanguageObjective(Objective[Batch]):
    """The loss of a language model over the batches of a `Stream`.

    validation: batches whose mean next-token loss is reported as `validation_loss`.
    """

    def __init__(
        self,
        model: nn.Module,
        config: ModelConfig,
        stream: Stream,
        schedule: Schedule,
        validation: Sequence[Batch] = (),
    ) -> None:
        self._model, self._config = model, config
        self._stream, self._schedule = stream, schedule
        self._validation = tuple(validation)
        parameters = model.named_parameters()
        self._indexers = any(is_indexer(n) and p.requires_grad for n, p in parameters)
        """Whether there are indexers to train; frozen ones (under adapters) have no loss."""

    def next(self, position: Position, step: int) -> tuple[list[Batch], Position]:
        return self._stream.next(position, step)

    def trains(self, name: str, step: int) -> bool:
        phase = self._schedule.phase(step)
        if phase == "indexer":
            return is_indexer(name)
        if name.startswith("mtp.") and not self._schedule.mtp_weight(step):
            return False
        return phase == "sparse" or not is_indexer(name)

    def regime(self, step: int) -> str:
        schedule = self._schedule
        return f"{schedule.phase(step)}, rows up to {self._stream.length(step)}"

    def loss(self, batch: Batch, batches: Sequence[Batch], step: int) -> Loss:
        batch = batch.to(self._device())
        phase = self._schedule.phase(step)
        read_densely(self._model, phase != "sparse")
        if phase == "dense":
            return self._language_loss(batch, batches, step)
        if phase == "indexer":
            with observed(self._model) as readings:
                cast(LanguageModel, self._model).features(batch.ids_BT)
            total, sums = self._indexer_loss(readings, batch, batches)
            return Loss(total, sums, batch.tokens)
        if not self._indexers:
            return self._language_loss(batch, batches, step)
        with observed(self._model) as readings:
            language = self._language_loss(batch, batches, step)
        if not readings:
            return language
        total, sums = self._indexer_loss(readings, batch, batches)
        return replace(language, total=language.total + total, sums={**language.sums, **sums})

    def _language_loss(self, batch: Batch, batches: Sequence[Batch], step: int) -> Loss:
        losses = compute_losses(
            cast(LanguageModel, self._model),
            batch,
            targets=count_targets(batches),
            mtp_weight=self._schedule.mtp_weight(step),
            hash_layers=self._config.num_hash_layers,
        )
        sums = {
            "loss": (losses.token, losses.targets),
            "mtp_loss": (losses.mtp, losses.mtp_targets),
            "balance": (losses.balance, 1.0),
        }
        return Loss(losses.total, sums, batch.tokens, losses.load)

    def _indexer_loss(
        self, readings: Sequence[Reading], batch: Batch, batches: Sequence[Batch]
    ) -> tuple[Tensor, Sums]:
        """The mean over layers: what to differentiate, and what to report.

        No weight: nothing but the indexers learns from it, and their optimizer does not see its
        scale.
        """
        summed = torch.stack([indexer_loss(reading, batch) for reading in readings]).mean()
        whole = max(1, count_queries(batches))
        return summed / whole, {"indexer_loss": (float(summed.detach()), count_queries([batch]))}

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        if not self._validation:
            return {}
        model, device = cast(LanguageModel, self._model), self._device()
        sums = [
            cross_entropy(model, model.features(batch.ids_BT), batch, ahead=1)
            for batch in (held.to(device) for held in self._validation)
        ]
        return {"validation_loss": float(sum(s for s, _ in sums)) / sum(n for _, n in sums)}

    def _device(self) -> torch.device:
        return next(self._model.parameters()).device
