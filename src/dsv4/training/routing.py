"""Which experts tokens go to, recorded in one pass and used in another.

For anticipatory routing (`anticipation`), which has to reach into whatever an objective computes.
Hash layers are left out: their experts follow from the ids.

Shapes: N tokens of a micro-batch, K experts per token.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor, nn

from dsv4.model.moe import Gate, Routing

Route = tuple[Tensor, ...]
"""Experts `[N, K]` of every router that learns, layer by layer, the MTP block last."""


def routers(model: nn.Module) -> list[Gate]:
    """The routers that choose, in the order of a `Route`."""
    return [m for m in model.modules() if isinstance(m, Gate) and m.tid2eid is None]


@contextlib.contextmanager
def recorded_routing(model: nn.Module) -> Iterator[list[Tensor]]:
    """Collect the choices of all routers in the one forward pass inside a `with` block."""
    found: list[Tensor] = []

    def record(gate: nn.Module, args: Any, routing: Routing) -> None:
        found.append(routing.experts_NK)

    handles = [gate.register_forward_hook(record) for gate in routers(model)]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


@contextlib.contextmanager
def given_routing(model: nn.Module, route: Sequence[Tensor]) -> Iterator[None]:
    """Use these experts in the forward pass (and the backward pass) inside a `with` block.

    Affinities, and so the weights of the experts, are still the model's own. A route may leave
    out the MTP block, if the pass does not run it.
    """
    gates = routers(model)
    if len(gates) > len(route):
        gates = routers(model.get_submodule("layers"))
    assert len(gates) == len(route), "a route has one entry for every router that chooses"

    def give(experts_NK: Tensor, gate: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        x_ND, ids_N, numerics, *_ = args
        # Routes out of a checkpoint, or out of rollouts, are on the CPU.
        return x_ND, ids_N, numerics, experts_NK.to(x_ND.device)

    hooks = [
        gate.register_forward_pre_hook(functools.partial(give, experts_NK))
        for gate, experts_NK in zip(gates, route, strict=True)
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
