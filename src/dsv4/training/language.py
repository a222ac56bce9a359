"""The language objective: next token, MTP and expert balance over documents.

Pre-training and supervised fine-tuning are both this; they differ in where batches come from and
in the loss mask that a batch may carry.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import nn

from dsv4.config import ModelConfig
from dsv4.data.batches import Batch, Batches, Position
from dsv4.training.loss import LanguageModel, compute_losses, count_targets, cross_entropy
from dsv4.training.objective import Loss, Objective
from dsv4.training.schedule import Schedule


class LanguageObjective(Objective[Batch]):
    """Batches of documents, at the sizes and MTP weights of a schedule.

    validation: batches whose mean next-token loss is reported as `validation_loss`.
    """

    def __init__(
        self,
        model: nn.Module,
        config: ModelConfig,
        batches: Batches,
        schedule: Schedule,
        validation: Sequence[Batch] = (),
    ) -> None:
        self._model, self._config = cast(LanguageModel, model), config
        self._batches, self._schedule = batches, schedule
        self._validation = tuple(validation)

    def next(self, position: Position, step: int) -> tuple[list[Batch], Position]:
        made = []
        for _ in range(self._schedule.micro_batches(step)):
            batch, position = self._batches.next(position)
            made.append(batch)
        return made, position

    def loss(self, batch: Batch, batches: Sequence[Batch], step: int) -> Loss:
        losses = compute_losses(
            self._model,
            batch,
            targets=count_targets(batches),
            mtp_weight=self._schedule.mtp_weight(step),
            hash_layers=self._config.num_hash_layers,
        )
        sums: Mapping[str, tuple[float, float]] = {
            "loss": (losses.token, losses.targets),
            "mtp_loss": (losses.mtp, losses.mtp_targets),
            "balance": (losses.balance, 1.0),
        }
        return Loss(losses.total, sums, batch.tokens, losses.load)

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        if not self._validation:
            return {}
        sums = [
            cross_entropy(self._model(batch.ids_BT).logits_BTV, batch, ahead=1)
            for batch in self._validation
        ]
        return {"validation_loss": float(sum(s for s, _ in sums)) / sum(n for _, n in sums)}
