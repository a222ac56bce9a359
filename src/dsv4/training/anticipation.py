"""Anticipatory routing: for a while after a spike, experts are chosen by older weights.

V4 report, section 4.2.3: the features of step t are computed with its weights theta_t, the experts
with theta_(t - lag): the data of step t are fetched `lag` steps early, and the choice of the
weights of that time is kept until they are trained on. That breaks the loop between router and
features which spikes were traced to; it costs a forward pass per step, so it is not left on.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dsv4.data.batches import Position
from dsv4.training.objective import Objective
from dsv4.training.routing import Route, recorded_routing

_PREFIX = "anticipation."


@dataclass(frozen=True)
class Fetched:
    """The micro-batches of a step, the position after them, and their routes (none: the
    routers choose for themselves)."""

    batches: Sequence[Any]
    position: Position
    routes: Sequence[Route] = ()


class Anticipation:
    """Fetches the batches of every step; ahead of time while it is on."""

    def __init__(self, model: nn.Module, objective: Objective[Any], lag: int) -> None:
        self._model, self._objective, self._lag = model, objective, lag
        self.until = 0
        """Steps below it are routed by older weights."""
        self._ahead: deque[Fetched] = deque()
        """The next steps', oldest first."""

    def start(self, until: int) -> None:
        """Be on from the next step until before step `until`."""
        self.until = until
        self._ahead.clear()

    def fetch(self, position: Position, step: int) -> Fetched:
        """The micro-batches of the next step, which starts at `position`."""
        if step >= self.until:
            self._ahead.clear()
            batches, end = self._objective.next(position, step)
            return Fetched(batches, end, self._objective.routes(batches))
        for later in range(step + len(self._ahead), min(step + self._lag + 1, self.until)):
            begin = self._ahead[-1].position if self._ahead else position
            batches, end = self._objective.next(begin, later)
            routes = [self._route(batch, batches, later) for batch in batches]
            self._ahead.append(Fetched(batches, end, routes))
        return self._ahead.popleft()

    @torch.no_grad()
    def _route(self, batch: Any, batches: Sequence[Any], step: int) -> Route:
        """The experts that the present weights choose for a micro-batch."""
        with recorded_routing(self._model) as found:
            self._objective.loss(batch, batches, step)
        return tuple(found)

    def state(self) -> dict[str, Tensor]:
        """The routes of the steps fetched so far; their batches can be made again."""
        return {
            f"{_PREFIX}{number}.{micro}.{layer}": experts_NK
            for number, fetched in enumerate(self._ahead)
            for micro, route in enumerate(fetched.routes)
            for layer, experts_NK in enumerate(route)
        }

    def restore(
        self, tensors: Mapping[str, Tensor], position: Position, step: int, until: int
    ) -> None:
        """Be as when `state` gave `tensors`, before step `step` at `position`."""
        self.start(until)
        routes: dict[int, dict[int, dict[int, Tensor]]] = {}
        for name, tensor in tensors.items():
            number, micro, layer = map(int, name.removeprefix(_PREFIX).split("."))
            routes.setdefault(number, {}).setdefault(micro, {})[layer] = tensor
        for number in sorted(routes):
            batches, position = self._objective.next(position, step + number)
            route = [tuple(r[i] for i in sorted(r)) for _, r in sorted(routes[number].items())]
            self._ahead.append(Fetched(batches, position, route))
