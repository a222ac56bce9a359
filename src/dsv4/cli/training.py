"""What the commands that train further have in common: following a run, and ending it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dsv4.cli.console import note, progress

if TYPE_CHECKING:
    from dsv4.training.loop import Report
    from dsv4.training.pretrain import Trained

SHOW_SECONDS = 10.0
"""At least this long between two lines of progress."""


@contextmanager
def following(steps: int, *shown: str) -> Iterator[Report]:
    """A report that moves a bar and now and then writes a line with some of the metrics."""
    last = 0.0
    with progress("training", steps) as bar:

        def report(record: dict[str, Any]) -> None:
            nonlocal last
            step, now = int(record["step"]), time.monotonic()
            bar(step)
            if now - last < SHOW_SECONDS and step < steps:
                return
            last = now
            values = [f"{name} {record[name]:.3g}" for name in shown if name in record]
            left = (steps - step) * float(record["seconds"]) / 60
            note(f"step {step}/{steps}  {'  '.join(values)}  {left:.0f} min left")

        yield report


def finish(trained: Trained, steps: int, folder: Path, origin: Path) -> None:
    """Write the model of a finished run to `folder`; say how to go on with another."""
    from dsv4.training.policy import save_policy

    if not trained.finished:
        note(f"stopped after step {trained.step} of {steps}; run again to go on")
        return
    save_policy(trained.model, folder, origin)
    note(f"{folder}: the trained model")
