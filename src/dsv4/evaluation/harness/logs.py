"""The logs of Inspect (JSON, version 2) as results, with intervals over samples."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from dsv4.errors import DataError
from dsv4.evaluation import intervals
from dsv4.evaluation.benchmark import Result, Row

LETTERS = {"C": 1.0, "P": 0.5, "I": 0.0, "N": 0.0}
"""Correct, partly, incorrect, no answer."""


def read(paths: list[Path], options: str, group: str) -> Iterator[Result]:
    """A result of every log. group: what the rows are called. Raises DataError for one that is no
    log, or of a run that did not end."""
    for path in paths:
        try:
            log = json.loads(path.read_text(encoding="utf-8"))
            name, status = log["eval"]["task"], log["status"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path} is no log of Inspect: {error}") from error
        if status != "success":
            raise DataError(f"{name} did not end: {path}", "run it again to go on")
        yield Result(
            f"inspect/{name}", options, len(log["samples"]), _seconds(log), _rows(log, group)
        )


def _rows(log: Mapping[str, Any], group: str) -> tuple[Row, ...]:
    """One row per scorer: the mean over samples of the mean over epochs. The first one is called
    `right`."""
    scores: dict[str, dict[str, list[float]]] = {}
    for sample in log["samples"]:
        for scorer, score in (sample.get("scores") or {}).items():
            value = _value(score.get("value"))
            if value is not None:
                scores.setdefault(scorer, {}).setdefault(str(sample["id"]), []).append(value)
    rows = []
    for i, (scorer, samples) in enumerate(scores.items()):
        means = [sum(values) / len(values) for values in samples.values()]
        measure = "right" if i == 0 else scorer
        rows.append(Row.of(group, measure, len(means), intervals.mean(means)))
    return tuple(rows)


def _value(value: Any) -> float | None:
    """None: no number (several values, a text)."""
    if isinstance(value, str):
        return LETTERS.get(value)
    return float(value) if isinstance(value, (bool, int, float)) else None


def _seconds(log: Mapping[str, Any]) -> float:
    stats = log.get("stats") or {}
    try:
        began, ended = (
            datetime.fromisoformat(stats[key]) for key in ("started_at", "completed_at")
        )
    except (KeyError, ValueError):
        return 0.0
    return (ended - began).total_seconds()
