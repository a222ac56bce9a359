"""Whole sublayers as one call, where the bound backend has such a form.

The model writes every sublayer as a composition of ops, which is its meaning. A backend may
offer a faster form of the whole: it is asked for one with the module that holds the weights, and
the form it builds is kept with the module until a weight is replaced.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

from dsv4.numerics.policy import FAST, Numerics

logger = logging.getLogger("dsv4.ops")

Builder = Callable[[Any], Any]
"""Takes the module, gives its fused form, or None where its parts have fused forms of their own and
are better called one by one; raises Unsupported with the reason if it cannot."""


class Unsupported(Exception):
    """A backend has no fused form of this module; the message says why."""


@dataclass(slots=True)
class Fused:
    """One kind of sublayer: who builds its fused form, or why nobody does."""

    kind: str
    backend: str = "none"
    builder: Builder | None = None
    reason: str = "no backend offers one"


KINDS = {
    kind: Fused(kind)
    for kind in ("model", "connections", "attention", "mixture", "memory", "collapse", "linear")
}

_SLOT = "_fused"
_active = True


def offer(kind: str, backend: str, builder: Builder, reason: str) -> None:
    """Let `backend` build the fused form of a kind of sublayer."""
    KINDS[kind] = Fused(kind, backend, builder, reason)


def fused(kind: str, module: nn.Module, numerics: Numerics) -> Any | None:
    """The fused form of a module's sublayer under a policy, or None: then compute it op by op."""
    if numerics is not FAST or not _active:
        return None
    forms = module.__dict__.get(_SLOT)
    if forms is None:
        forms = module.__dict__[_SLOT] = {}
    if kind not in forms:
        forms[kind] = _build(KINDS[kind], module)
    return forms[kind]


def available() -> bool:
    """Whether some backend offers the fused forms."""
    return all(entry.builder is not None for entry in KINDS.values())


def arithmetic() -> str:
    """Whose arithmetic the fused forms are, in words: the same words, the same bits."""
    return f"{KINDS['model'].backend}: {KINDS['model'].reason}"


def _build(entry: Fused, module: nn.Module) -> Any | None:
    if entry.builder is None:
        return None
    try:
        return entry.builder(module)
    except Unsupported as reason:
        logger.warning("%s runs in its parts, slowly: %s", entry.kind, reason)
        return None


def forget(module: nn.Module) -> None:
    """Drop a module's fused forms, because a weight below it is replaced."""
    module.__dict__.pop(_SLOT, None)


@contextlib.contextmanager
def unfused() -> Iterator[None]:
    """Compute every sublayer op by op inside a `with` block (tests, comparisons)."""
    global _active
    before, _active = _active, False
    try:
        yield
    finally:
        _active = before
