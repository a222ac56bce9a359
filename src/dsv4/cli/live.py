"""A training run on the terminal: how far it is, how it goes, what its layers do."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Group, RenderableType
    from rich.table import Table

_BARS = "▁▂▃▄▅▆▇█"
_CURVE = 60
_RECENT = 20


class LiveView:
    """What the last records of a run say, as something rich can draw."""

    def __init__(self, steps: int, shown: tuple[str, ...]) -> None:
        """shown: metrics to show beside those that every run has."""
        self._steps, self._shown = steps, shown
        self._last: dict[str, Any] = {}
        self._layers: dict[str, Mapping[str, float]] = {}
        self._held: dict[str, float] = {}
        self._losses: list[float] = []
        self._recent: deque[tuple[int, float]] = deque(maxlen=_RECENT)
        self._spikes = 0

    def record(self, record: Mapping[str, Any]) -> None:
        """Take a record of the run's metrics."""
        if "event" in record:
            self._spikes += 1
            self._recent.clear()
            return
        self._last |= record
        self._recent.append((int(record["step"]), time.monotonic()))
        if "loss" in record:
            self._losses.append(float(record["loss"]))
        for name in ("max_activation", "layer_overload"):
            if name in record:
                self._layers[name] = record[name]
        self._held |= {n: v for n, v in record.items() if n.startswith("validation_")}

    def __rich__(self) -> Group:
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.text import Text

        last = self._last
        step = int(last.get("step", 0))
        head = Text(f"step {step}/{self._steps}", style="bold")
        if "regime" in last:
            head.append(f"  {last['regime']}", style="dim")
        if self._spikes:
            head.append(f"  {self._spikes} spikes undone", style="yellow")
        parts: list[RenderableType] = [head, ProgressBar(self._steps, step, width=_CURVE)]
        if self._losses:
            parts.append(Text(f"loss {curve(self._losses)} {self._losses[-1]:.3f}"))
        parts.append(self._numbers())
        if self._layers:
            parts.append(self._by_layer())
        return Group(*parts)

    def _numbers(self) -> Table:
        from rich.table import Table

        last = self._last
        cells = {
            **{name: f"{value:.3f}" for name, value in self._held.items()},
            **{name: f"{last[name]:.3g}" for name in self._shown if name in last},
        }
        for name, form in (("tokens_per_second", ".0f"), ("lr", ".2e"), ("grad_norm", ".2f")):
            if name in last:
                cells[name.replace("_per_", "/")] = format(last[name], form)
        cells["left"] = duration(self._seconds_left())
        made = Table(box=None, pad_edge=False)
        for name in cells:
            made.add_column(name, justify="right")
        made.add_row(*cells.values())
        return made

    def _by_layer(self) -> Table:
        from rich.table import Table

        made = Table(box=None, pad_edge=False)
        made.add_column("layer")
        numbers = sorted({n for layers in self._layers.values() for n in layers}, key=int)
        for number in numbers:
            made.add_column(number, justify="right")
        for name, form in (("max_activation", ".3g"), ("layer_overload", ".2f")):
            layers = self._layers.get(name, {})
            told = [format(layers[n], form) if n in layers else "" for n in numbers]
            made.add_row(name.replace("_", " "), *told)
        return made

    def _seconds_left(self) -> float | None:
        if len(self._recent) < 2:
            return None
        (first, began), (last, now) = self._recent[0], self._recent[-1]
        return (self._steps - last) * (now - began) / max(1, last - first)


def curve(values: list[float], width: int = _CURVE) -> str:
    """Values over time in one line; each place is a mean of its share of them."""
    width = min(width, len(values))
    bounds = [len(values) * place // width for place in range(width + 1)]
    means = [sum(values[a:b]) / (b - a) for a, b in pairwise(bounds)]
    low, high = min(means), max(means)
    scale = (len(_BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(_BARS[round((value - low) * scale)] for value in means)


def duration(seconds: float | None) -> str:
    """Seconds for people: 45 s, 12 min, 3.4 h."""
    if seconds is None:
        return "?"
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
