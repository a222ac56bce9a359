"""Comparisons of all layers in a few lines: per part and variant, the largest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dsv4.evaluation.conformance.comparison import Comparison
from dsv4.evaluation.conformance.parts import ORDER


@dataclass(frozen=True, slots=True)
class Row:
    """The comparison of a part that is nearest to its bound; `failed` of `layers` are beyond it."""

    worst: Comparison
    layers: int
    failed: int


def summarize(comparisons: Sequence[Comparison]) -> list[Row]:
    """One row for each pair of variants and part, in the order in which they were computed."""
    groups: dict[tuple[str, str, str], list[Comparison]] = {}
    for row in comparisons:
        groups.setdefault((row.variant, row.against, row.part), []).append(row)

    def nearness(row: Comparison) -> float:
        return row.relative / row.allowed if row.allowed else row.relative

    rows = [
        Row(max(group, key=nearness), len(group), sum(not row.ok for row in group))
        for group in groups.values()
    ]
    pairs = list(dict.fromkeys((row.variant, row.against) for row in comparisons))
    parts = [*ORDER, "streams", "logits"]
    return sorted(
        rows,
        key=lambda row: (
            pairs.index((row.worst.variant, row.worst.against)),
            parts.index(row.worst.part),
        ),
    )
