"""The seam between the loop and what is trained: pre-training, fine-tuning, LoRA, RL, distillation.

`loop.Trainer` owns what they share: optimizer steps, checkpoints, exact resume, metrics, signals,
schedules, recovery from spikes, several processes. An `Objective` answers what differs. One step:

    batches, position = objective.next(position, step)      # the micro-batches of this step
    for batch in batches:
        loss = objective.loss(batch, batches, step)         # run the model, once per micro-batch
        loss.total.backward()
    (clip, update the parameters that train, move the router biases by loss.load, report)

To be resumable, an objective draws nothing from anywhere but its arguments: `next` gives the same
batches for the same position, step and weights, and randomness is seeded from (seed, position).
What it has to remember besides (rollouts to learn from twice, say) goes through `state` and
`restore`. Which of several processes it runs in is not its business: `next` gives the whole step
to each of them and the loop hands out the micro-batches.

Example: the smallest objective, next-token loss over one endless batch.

    class Overfit(Objective[Batch]):
        def __init__(self, model, batch): self.model, self.batch = model, batch
        def next(self, position, step): return [self.batch], position
        def loss(self, batch, batches, step):
            features = self.model.features(batch.ids_BT)
            summed, count = cross_entropy(self.model, features, batch, ahead=1)
            return Loss(summed / count, {"loss": (float(summed), count)}, batch.tokens)

    Trainer(model, config, Overfit(model, batch), LoopSettings(out, Schedule(100))).run()
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import torch
from torch import Tensor

from dsv4.data.batches import Position

B = TypeVar("B")
"""A micro-batch: what `next` makes and `loss` reads; the loop never looks inside."""

Sums = Mapping[str, tuple[float | Tensor, float]]
"""Metric name -> (sum, weight). A sum may stay a scalar on its device until the step is done, so
that nobody waits for it before the backward pass."""


@dataclass(frozen=True)
class Loss:
    """What one micro-batch gave.

    total: scalar to differentiate. Normalise by the whole step (the `batches` given to `loss`),
    so that the gradients of the micro-batches sum to those of one large batch.
    sums: metrics, reported as sum / weight over all micro-batches of the step. The metric `loss` is
    what spike detection watches and the terminal shows.
    tokens: real tokens the model read.
    load: layer -> tokens per expert [E], for layers whose router bias is to be moved by load.
    """

    total: Tensor
    sums: Sums
    tokens: int
    load: Mapping[int, Tensor] = field(default_factory=dict)

    def nothing(self) -> Loss:
        """The same with all counts at zero: a micro-batch that was computed but does not count."""
        load = {layer: torch.zeros_like(count) for layer, count in self.load.items()}
        return Loss(self.total, {name: (0.0, 0.0) for name in self.sums}, 0, load)


class Objective(ABC, Generic[B]):
    """One kind of training over a model that it holds. Implement `next` and `loss`.

    foresees: whether `next` does without the weights, so that later steps' batches can be made
    now. False (rollouts) rules out the recovery from spikes.
    """

    foresees = True

    @abstractmethod
    def next(self, position: Position, step: int) -> tuple[Sequence[B], Position]:
        """The micro-batches of optimizer step `step` (from 0), and the position after them.

        Called with the weights that the step starts from, as the forward pass is to see them
        (rounded, in a quantisation-aware phase), with gradients enabled.
        """

    @abstractmethod
    def loss(self, batch: B, batches: Sequence[B], step: int) -> Loss:
        """Run the model on one micro-batch out of the step's `batches`."""

    def routes(self, batches: Sequence[B]) -> Sequence[tuple[Tensor, ...]]:
        """The experts that each of a step's micro-batches goes through (`routing.Route`), where the
        routers are not to choose: those that a rollout was computed by."""
        return ()

    def trains(self, name: str, step: int) -> bool:
        """Whether the parameter called `name` moves in this step.

        Asked only of parameters that require gradients when the `Trainer` is made: freeze the
        others before.
        """
        return True

    def regime(self, step: int) -> str:
        """What kind of step this is, in words; losses of different kinds are not compared."""
        return ""

    def validate(self) -> dict[str, float]:
        """Metrics on held-out data, e.g. `validation_loss`; called without gradients."""
        return {}

    def state(self) -> dict[str, Tensor]:
        """What a resumed run needs besides weights, optimizer and position, as named tensors."""
        return {}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Put what `state` gave back."""
