"""Samples side by side: what a model predicts at every drawn id.

Shapes: B rows, T positions, M drawn ids of all rows, D hidden channels, K experts per token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dsv4.data.batches import Batch
from dsv4.model.transformer import Transformer
from dsv4.training.rollout import Sample


@dataclass(frozen=True, slots=True)
class Answers:
    """Samples as a batch.

    ids_BT: prompts and answers without their last id, padded at the end. row_M, place_M: where
    each drawn id is predicted; drawn_M: the ids. experts: `[B, T, K]` of every layer, what
    computed each id when it was sampled; -1 where there is padding.
    """

    samples: tuple[Sample, ...]
    ids_BT: Tensor
    row_M: Tensor
    place_M: Tensor
    drawn_M: Tensor
    experts: tuple[Tensor, ...]

    @property
    def drawn(self) -> int:
        """How many ids were drawn."""
        return len(self.drawn_M)

    def to(self, device: torch.device) -> Answers:
        """The same batch on a device."""
        return Answers(
            self.samples,
            self.ids_BT.to(device),
            self.row_M.to(device),
            self.place_M.to(device),
            self.drawn_M.to(device),
            tuple(experts.to(device) for experts in self.experts),
        )

    def mean_over_answers(self, values_M: Tensor) -> Tensor:
        """The mean of each sample's values `[B]`."""
        sums_B = values_M.new_zeros(len(self.samples)).index_add(0, self.row_M, values_M)
        counts_B = torch.bincount(self.row_M, minlength=len(self.samples))
        return sums_B / counts_B


def collate(samples: Sequence[Sample], pad: int = 2) -> Answers:
    """One batch of all samples, each with at least one drawn id."""
    width = max(len(sample.ids) for sample in samples) - 1
    ids_BT = torch.full((len(samples), width), pad)
    _, layers, chosen = samples[0].experts_TLK.shape
    experts_LBTK = torch.full((layers, len(samples), width, chosen), -1)
    rows, places, drawn = [], [], []
    for row, sample in enumerate(samples):
        length = len(sample.ids) - 1
        ids_BT[row, :length] = torch.tensor(sample.ids[:-1])
        experts_LBTK[:, row, :length] = sample.experts_TLK.transpose(0, 1)
        places.append(torch.arange(len(sample.prompt) - 1, length))
        rows.append(torch.full((len(sample.answer),), row))
        drawn.append(torch.tensor(sample.answer))
    return Answers(
        tuple(samples),
        ids_BT,
        torch.cat(rows),
        torch.cat(places),
        torch.cat(drawn),
        experts_LBTK.unbind(),
    )


def from_batch(batch: Batch) -> Answers:
    """Documents as a batch: their learned ids count as drawn. There are no samples in it."""
    wanted_BT = batch.valid_BT(1)
    if batch.learned_BT is not None:
        wanted_BT = wanted_BT & batch.learned_BT.roll(-1, 1)
    row_M, place_M = wanted_BT.nonzero(as_tuple=True)
    drawn_M = batch.ids_BT[row_M, place_M + 1]
    return Answers((), batch.ids_BT, row_M, place_M, drawn_M, ())


def micro_batches(samples: Sequence[Sample], tokens: int) -> list[list[Sample]]:
    """Samples of similar length together, at most `tokens` ids with padding in each batch (or one
    sample). The order follows from the samples alone."""
    ordered = sorted(samples, key=lambda sample: -len(sample.ids))
    batches: list[list[Sample]] = []
    for sample in ordered:
        if batches and (len(batches[-1]) + 1) * len(batches[-1][0].ids) <= tokens:
            batches[-1].append(sample)
        else:
            batches.append([sample])
    return batches


def hidden_states(model: Transformer, answers: Answers) -> Tensor:
    """The head's input where each drawn id is predicted, `[M, D]`; differentiable."""
    return model.features(answers.ids_BT).x_BTD[answers.row_M, answers.place_M]
