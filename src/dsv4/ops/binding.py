"""Which implementation an op runs: bound once, changeable in one place.

An op is a public function whose signature and meaning are those of its reference. Backends add
implementations. Every op is bound to its reference until `use` asks for another backend, which
fails if that backend lacks an op.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, ParamSpec, TypeVar

from dsv4.errors import UsageError

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Binding:
    """One row of `dsv4 doctor`: the op, the backend it is bound to, and why."""

    op: str
    backend: str
    reason: str


class Op(Generic[P, R]):
    """A callable with one implementation per backend; the reference defines its meaning."""

    def __init__(self, reference: Callable[P, R]) -> None:
        functools.update_wrapper(self, reference)
        self.name: str = reference.__name__
        self.implementations: dict[str, Callable[P, R]] = {"reference": reference}
        self.backend = "reference"
        self._bound = reference
        _OPS[self.name] = self

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return self._bound(*args, **kwargs)

    def bind(self, backend: str) -> None:
        """Run `backend`'s implementation from now on; raises UsageError if there is none."""
        if backend not in self.implementations:
            have = ", ".join(self.implementations)
            raise UsageError(f"op {self.name} has no {backend!r} implementation", f"it has {have}")
        self.backend, self._bound = backend, self.implementations[backend]


_OPS: dict[str, Op] = {}


@contextlib.contextmanager
def use(backend: str) -> Iterator[None]:
    """Bind every op to `backend` inside a `with` block (tests, comparisons)."""
    before = {op: op.backend for op in _OPS.values()}
    try:
        for op in _OPS.values():
            op.bind(backend)
        yield
    finally:
        for op, name in before.items():
            op.bind(name)


def bindings() -> list[Binding]:
    """What every op is bound to, for `dsv4 doctor`."""
    rows = []
    for op in _OPS.values():
        only = list(op.implementations) == ["reference"]
        reason = "the only implementation" if only else "not asked for another"
        rows.append(Binding(op.name, op.backend, reason))
    return rows
