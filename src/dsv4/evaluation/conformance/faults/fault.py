"""A known failure, and how one is planted."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from dsv4 import ops

Change = Callable[[], AbstractContextManager[None]]
Enter = Callable[[Callable[[], Iterator[None]]], Change]


@dataclass(frozen=True, slots=True)
class Fault:
    """A known failure. `number`: in section 16 of the architecture notes. `hint`: what is right."""

    name: str
    number: int
    title: str
    hint: str
    change: Change

    @contextlib.contextmanager
    def planted(self) -> Iterator[None]:
        """Compute with this failure, op by op."""
        with ops.unfused(), self.change():
            yield


def into(faults: dict[str, Fault]) -> Callable[[int, str, str], Enter]:
    """A decorator (number, title, hint) that enters a change into `faults`, under the name of its
    function."""

    def fault(number: int, title: str, hint: str) -> Enter:
        def enter(function: Callable[[], Iterator[None]]) -> Change:
            change = contextlib.contextmanager(function)
            name = function.__name__.strip("_").replace("_", "-")
            faults[name] = Fault(name, number, title, hint, change)
            return change

        return enter

    return fault


@contextlib.contextmanager
def swapped(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Another value of an attribute."""
    before = inspect.getattr_static(owner, name)  # a static method stays one
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


def computed(op: Any, value: Any) -> AbstractContextManager[None]:
    """Let `value` be computed instead of an op."""
    return swapped(op, "_bound", value)
