"""Which known failure a divergence is: the one under which our reference gives the same numbers.

Every known failure is tried on the inputs of a layer that differs. The right one explains what was
seen down to rounding; the others leave it as far away as it was. What differs no more than rounding
does is no evidence.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from dsv4.evaluation.conformance.comparison import allowed, measure
from dsv4.evaluation.conformance.faults import FAULTS, Fault
from dsv4.evaluation.conformance.parts import ORDER, Inputs, compute
from dsv4.evaluation.conformance.variant import Variant
from dsv4.model.block import Block
from dsv4.model.engram import Ticket
from dsv4.numerics.policy import Numerics
from dsv4.ops.fused import unfused

EXPLAINS = 0.5
"""A failure is named if what remains unexplained is at most this share of the difference."""
NEAR = 0.05
"""Failures that leave hardly more than the best are named beside it."""

Parts = Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class Suspect:
    """A known failure, and the share of the difference that it leaves unexplained."""

    fault: Fault
    remains: float


@dataclass(slots=True)
class _Evidence:
    """Sums over parts and layers: parts that differ, and what of them a failure leaves."""

    parts: float = 0.0
    remains: dict[str, float] = field(default_factory=dict)


@dataclass(slots=True)
class Diagnosis:
    """Collects evidence from layers that differ.

    `numerics`: how our reference rounds where failures are tried; `how` closely the examined
    variants agree with that when they are sound (see `comparison.allowed`). What a failure makes of
    a layer is computed once, for all variants that are examined.
    """

    numerics: Numerics
    how: str
    _evidence: dict[str, _Evidence] = field(default_factory=dict)

    def add(
        self, block: Block, inputs: Inputs, ticket: Ticket | None, seen: Mapping[str, Parts]
    ) -> None:
        """Take what variants computed for a layer (`seen`: variant -> parts) into account."""
        hashed = block.ffn.gate.tid2eid is not None
        sound = compute(block, inputs, ticket, Variant("sound", self.numerics, (), unfused))
        before = {name: self._distances(parts, sound, hashed) for name, parts in seen.items()}
        for name, distances in before.items():
            evidence = self._evidence.setdefault(name, _Evidence())
            evidence.parts += sum(value > 0 for value in distances.values())
        for fault in FAULTS.values():
            under = Variant(fault.name, self.numerics, (), fault.planted)
            wrong = compute(block, inputs, ticket, under)
            for name, parts in seen.items():
                remains = self._evidence[name].remains
                after = self._distances(parts, wrong, hashed)
                remains[fault.name] = remains.get(fault.name, 0.0) + sum(
                    # Where nothing differs, a failure that would differ there is not the one.
                    min(1.0, value / before[name][part]) if before[name].get(part) else value
                    for part, value in after.items()
                )

    def suspects(self, variant: str) -> list[Suspect]:
        """The failures that explain what a variant computed, the best first; none may."""
        evidence = self._evidence.get(variant)
        if evidence is None or not evidence.parts:
            return []
        best = min(evidence.remains.values())
        found = [
            Suspect(FAULTS[name], value / evidence.parts)
            for name, value in evidence.remains.items()
            if value <= EXPLAINS * evidence.parts and value <= best + NEAR * evidence.parts
        ]
        return sorted(found, key=lambda suspect: suspect.remains)

    def _distances(self, a: Parts, b: Parts, hashed: bool) -> dict[str, float]:
        """Part -> difference of two computations of a layer, at most 1 (a part that is wrong
        altogether says no more than that); 0 where rounding explains it."""
        found = {}
        for part in ORDER:
            if part in a and part in b:
                value = min(1.0, measure(part, a[part], b[part]))
                found[part] = value if value > allowed(part, self.how, hashed=hashed) else 0.0
        return found
