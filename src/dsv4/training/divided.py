"""An objective over a model that is divided between processes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from dsv4.data.batches import Position
from dsv4.parallel.sharding import Divided
from dsv4.training.objective import Loss, Objective


class DividedObjective(Objective[Any]):
    """The same objective, its model run where the whole weights are at hand."""

    def __init__(self, objective: Objective[Any], divided: Divided) -> None:
        self._objective, self._divided = objective, divided
        self.foresees = objective.foresees

    def next(self, position: Position, step: int) -> tuple[Sequence[Any], Position]:
        return self._objective.next(position, step)

    def loss(self, batch: Any, batches: Sequence[Any], step: int) -> Loss:
        made: Loss = self._divided(self._objective.loss, batch, batches, step)
        return made

    def routes(self, batches: Sequence[Any]) -> Sequence[tuple[Tensor, ...]]:
        return self._objective.routes(batches)

    def trains(self, name: str, step: int) -> bool:
        return self._objective.trains(name, step)

    def regime(self, step: int) -> str:
        return self._objective.regime(step)

    def validate(self) -> dict[str, float]:
        measured: dict[str, float] = self._divided(self._objective.validate)
        self._divided.settle()
        return measured

    def state(self) -> dict[str, Tensor]:
        return self._objective.state()

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        self._objective.restore(tensors)
