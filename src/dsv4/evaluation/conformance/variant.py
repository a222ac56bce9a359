"""One way to compute a model."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from dsv4.numerics.policy import EXACT, FAST, OFFICIAL, Numerics
from dsv4.ops.fused import available, unfused


@dataclass(frozen=True, slots=True)
class Variant:
    """A numerics policy and what holds while it computes (op by op, under a fault).

    `against`: the variants it is compared with, and how closely (see `comparison.allowed`).
    """

    name: str
    numerics: Numerics
    against: tuple[tuple[str, str], ...]
    within: Callable[[], AbstractContextManager[None]] = nullcontext


TRUTH = "exact"
IN_PIECES = "exact, in pieces"
OP_BY_OP = "fast, op by op"


def usual() -> list[Variant]:
    """What `dsv4 verify` compares with the truth: `exact` in chunks and single tokens, the released
    rounding, and what this machine runs (where kernels do, with their definition too)."""
    variants = [
        Variant(IN_PIECES, EXACT, ((TRUTH, "float32"),)),
        Variant("official", OFFICIAL, ((TRUTH, "rounded"),)),
    ]
    if not available():
        return [*variants, Variant("fast", FAST, ((TRUTH, "fast"),))]
    return [
        *variants,
        Variant(OP_BY_OP, FAST, ((TRUTH, "fast"),), unfused),
        Variant("fast", FAST, ((TRUTH, "fast"), (OP_BY_OP, "kernels"))),
    ]
