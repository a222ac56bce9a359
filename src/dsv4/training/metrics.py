"""The record of a run: one JSON object per line of metrics.jsonl.

A line with `step` and metrics for every step; a line with `event` for what happened besides. The
record of a run that was cut and resumed is that of a run that was not.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dsv4 import parallel
from dsv4.errors import DataError
from dsv4.files import replace_text
from dsv4.training.objective import Loss

Record = dict[str, Any]
Report = Callable[[Record], None]
Status = Callable[[str], None]
"""Called with one line about what is being done."""


class Log:
    """Appends records to a file, and drops those that a resumed run will write again."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def write(self, record: Record) -> None:
        """Append a line; only the first process does."""
        if parallel.rank() == 0:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")

    def clear(self) -> None:
        """Begin anew."""
        if parallel.rank() == 0:
            self._path.unlink(missing_ok=True)

    def rewind(self, step: int, recoveries: int) -> list[Record]:
        """Drop what came after `step` steps and that many recoveries; returns the dropped."""
        if not self._path.is_file():
            return []
        kept, dropped = [], []
        for line in self._path.read_text(encoding="utf-8").splitlines(keepends=True):
            try:
                record = json.loads(line)
                keep = record["step"] <= step and record.get("recoveries", 0) <= recoveries
            except (ValueError, KeyError):  # a line cut off by a kill
                continue
            if keep:
                kept.append(line)
            else:
                dropped.append(record)
        parallel.wait()
        if parallel.rank() == 0:
            replace_text(self._path, "".join(kept))
        return dropped


def read_steps(path: Path) -> list[Record]:
    """The records of the steps. Raises DataError if there are none."""
    try:
        records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as error:
        raise DataError(f"no readable metrics at {path}: {error}") from error
    steps = [record for record in records if "event" not in record]
    if not steps:
        raise DataError(f"{path} has no step in it")
    return steps


def means(done: Sequence[Loss]) -> dict[str, float]:
    """Every metric over the micro-batches of all processes, weighted as the objective says."""
    sums: dict[str, float] = defaultdict(float)
    weights: dict[str, float] = defaultdict(float)
    for loss in done:
        for name, (value, weight) in loss.sums.items():
            sums[name] += float(value)
            weights[name] += weight
    names = sorted(sums)
    both = torch.tensor([[sums[n] for n in names], [weights[n] for n in names]]).double()
    totals, counts = parallel.add(both).tolist()
    return {name: t / c for name, t, c in zip(names, totals, counts, strict=True) if c}


def sum_loads(done: Sequence[Loss]) -> dict[int, Tensor]:
    """Layer -> tokens per expert over the micro-batches of all processes."""
    total: dict[int, Tensor] = {}
    for loss in done:
        for layer, load in loss.load.items():
            total[layer] = total[layer] + load if layer in total else load.clone()
    return {layer: parallel.add(total[layer]) for layer in sorted(total)}


def overload(load: Mapping[int, Tensor]) -> dict[int, float]:
    """Layer -> load of its busiest expert over the mean."""
    if not load:
        return {}
    counts = torch.stack(list(load.values())).float()
    return dict(zip(load, (counts.amax(1) / counts.mean(1)).tolist(), strict=True))
