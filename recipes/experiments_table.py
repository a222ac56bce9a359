"""The results of the experiments as a Markdown table, and the differences it tells."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any, NamedTuple

from experiments_arms import ARMS

Result = dict[str, Any]
MEASURES = {"loss": "held-out loss", "near": "near needles", "far": "far needles"}
"""Keys of a result that arms are compared in, and what they are called."""

T95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365}
"""Half-width of a 95 % interval in standard errors, by number of seeds (Student, n - 1)."""


class Difference(NamedTuple):
    """Mean over seeds of an arm minus its partner, and half of its 95 % interval (infinite with
    one seed). p: how likely so large a mean is if there is no difference."""

    mean: float
    half: float
    p: float

    @property
    def significant(self) -> bool:
        """Whether the interval excludes 0: by itself, with no regard to how many others there
        are."""
        return abs(self.mean) > self.half


def read_results(out: Path) -> list[Result]:
    """The results so far, one per run."""
    path = out / "results.jsonl"
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def by_arm(results: Sequence[Result]) -> dict[str, dict[int, Result]]:
    """Arm -> seed -> result, of the arms that have any."""
    found = {name: {r["seed"]: r for r in results if r["arm"] == name} for name in ARMS}
    return {name: runs for name, runs in found.items() if runs}


def difference(
    arms: Mapping[str, Mapping[int, Result]], name: str, measure: str
) -> Difference | None:
    """An arm minus its partner, seed by seed; None if there is nothing to compare."""
    partner = ARMS[name].partner
    if partner == name:
        return None
    own, others = arms[name], arms.get(partner, {})
    gaps = [own[seed][measure] - others[seed][measure] for seed in own.keys() & others.keys()]
    if not gaps:
        return None
    if len(gaps) == 1:
        return Difference(gaps[0], math.inf, 1.0)
    error = stdev(gaps) / math.sqrt(len(gaps))
    p = student(mean(gaps) / error, len(gaps) - 1) if error else 0.0
    return Difference(mean(gaps), T95[min(len(gaps), max(T95))] * error, p)


def student(t: float, freedom: int) -> float:
    """Share of Student's distribution beyond -|t| and |t|."""

    def area(angle: float, pieces: int = 2000) -> float:  # of cos^(freedom-1), by midpoints
        width = angle / pieces
        return width * sum(math.cos((i + 0.5) * width) ** (freedom - 1) for i in range(pieces))

    return max(0.0, 1 - area(math.atan(abs(t) / math.sqrt(freedom))) / area(math.pi / 2))


def holding(arms: Mapping[str, Mapping[int, Result]], measure: str) -> set[str]:
    """Arms that differ from their partners in a measure even if one regards how many were compared
    in it: by Holm's method, 5 % for all comparisons of more than one seed together."""
    gaps = {name: difference(arms, name, measure) for name in arms}
    told = {name: gap.p for name, gap in gaps.items() if gap and not math.isinf(gap.half)}
    found: set[str] = set()
    for name in sorted(told, key=told.__getitem__):
        if told[name] * (len(told) - len(found)) > 0.05:
            break
        found.add(name)
    return found


def table(results: Sequence[Result]) -> str:
    """One row per arm: means over seeds, and the differences from its partner; a star for an
    interval that excludes 0, two where it holds among all of its column (`holding`)."""
    heads = [
        "arm",
        "what",
        "seeds",
        *(head for title in MEASURES.values() for head in (title, "minus partner's")),
        "parameters",
        "KV bytes/token",
    ]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    arms = by_arm(results)
    held = {measure: holding(arms, measure) for measure in MEASURES}
    for name, runs in arms.items():
        arm = ARMS[name]
        cells = [name if name == arm.partner else f"{name} vs {arm.partner}", arm.what]
        cells.append(str(len(runs)))
        for measure in MEASURES:
            gap = difference(arms, name, measure)
            cells += [f"{_average(runs, measure):.3f}", _told(gap, name in held[measure])]
        cells.append(f"{_average(runs, 'parameters') / 1e6:.2f} M")
        cells.append(f"{_average(runs, 'kv_bytes_per_token'):.0f}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _told(gap: Difference | None, holds: bool) -> str:
    if gap is None:
        return ""
    if math.isinf(gap.half):
        return f"{gap.mean:+.3f} (one seed)"
    stars = r"\*\*" if holds else r"\*" if gap.significant else ""
    return f"{gap.mean:+.3f} ± {gap.half:.3f} {stars}".rstrip()


def _average(runs: Mapping[int, Result], key: str) -> float:
    return mean(float(result[key]) for result in runs.values())
