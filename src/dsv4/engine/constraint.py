"""Which tokens may come next: what a grammar or a budget tells the sampler, in ids alone."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class Constraint(Protocol):
    """Follows one generation. The engine asks for `allowed` before every draw and tells the
    token that was drawn with `accept`; it never goes back.

    A constraint belongs to one request. `allowed` and `accept` are called from the engine's
    thread, and so must not wait for anything.
    """

    def allowed(self) -> Tensor | None:
        """Bools `[V]`, true where a token may come (at least one); None: any may."""

    def accept(self, token: int) -> None:
        """`token` was drawn and is part of the output (a stop id too)."""


class Together:
    """Several constraints at once: a token may come if each of them allows it.

    They must leave a common token at every step.
    """

    def __init__(self, *constraints: Constraint) -> None:
        self._constraints = constraints

    def allowed(self) -> Tensor | None:
        found = [mask for c in self._constraints if (mask := c.allowed()) is not None]
        if not found:
            return None
        mask = found[0]
        for other in found[1:]:
            mask = mask & other
        return mask

    def accept(self, token: int) -> None:
        for constraint in self._constraints:
            constraint.accept(token)
