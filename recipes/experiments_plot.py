"""The results of the experiments as a picture (needs the `plot` extra: matplotlib)."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from statistics import mean
from typing import Any

from experiments_arms import ARMS
from experiments_table import MEASURES, Result, by_arm, difference, read_results

from dsv4.errors import DataError, UsageError

SMOOTHING = 15
"""Steps that a point of a training curve is the mean of."""


def plot(out: Path, image: Path) -> None:
    """Draw curves, differences, and needles over the size of the cache into a PNG.

    Raises UsageError without matplotlib, DataError without results.
    """
    try:
        from matplotlib import colormaps
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UsageError("drawing needs matplotlib", "pip install matplotlib") from error
    arms = by_arm(read_results(out))
    if not arms:
        raise DataError(f"{out} has no results", "run the experiments first")
    if not (out / "curves").is_dir():
        raise DataError(f"{out} has no curves", "they are in the folder the runs were made in")
    colours = {arm: colormaps["tab20"](place) for place, arm in enumerate(ARMS)}
    figure = Figure(figsize=(14, 9), dpi=130, layout="constrained")
    grid = figure.add_gridspec(2, 6)
    _draw_curves(figure.add_subplot(grid[0, :3]), out, arms, colours, "loss", "training loss")
    held = figure.add_subplot(grid[0, 3:])
    _draw_curves(held, out, arms, colours, "heldout_loss", "held-out loss of tales")
    _draw_differences(figure.add_subplot(grid[1, :2]), arms, colours, "loss")
    _draw_differences(figure.add_subplot(grid[1, 2:4]), arms, colours, "far")
    _draw_cache(figure.add_subplot(grid[1, 4:]), arms, colours)
    figure.legend(
        *held.get_legend_handles_labels(), loc="outside upper center", ncols=7, frameon=False
    )
    for axes in figure.axes:
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    image.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(image)


def _draw_curves(
    axes: Any,
    out: Path,
    arms: Mapping[str, Mapping[int, Result]],
    colours: Mapping[str, Any],
    key: str,
    title: str,
) -> None:
    """Mean over seeds, with the span between the lowest and the highest."""
    places = "tokens" if key == "loss" else "heldout_tokens"
    for name, runs in arms.items():
        paths = [out / "curves" / f"{name}-{seed}.json" for seed in runs]
        curves = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
        width = SMOOTHING if key == "loss" else 1
        values = [_smoothed(curve[key], width) for curve in curves]
        tokens = [mean(at) / 1e6 for at in zip(*(c[places] for c in curves), strict=False)]
        points = list(zip(*values, strict=False))
        middle = [mean(point) for point in points]
        shown = slice(min(width, len(middle) - 1), None)  # the first steps would set the scale
        axes.plot(tokens[shown], middle[shown], color=colours[name], lw=1.4, label=name)
        low, high = [min(p) for p in points], [max(p) for p in points]
        axes.fill_between(
            tokens[shown], low[shown], high[shown], color=colours[name], alpha=0.15, lw=0
        )
    axes.set(title=title, xlabel="tokens trained on (millions)", ylabel="nats per token")


def _draw_differences(
    axes: Any, arms: Mapping[str, Mapping[int, Result]], colours: Mapping[str, Any], measure: str
) -> None:
    """An arm minus its partner with the 95 % interval; filled where it excludes 0, a diamond where
    there is one seed and thus none."""
    rows = [(name, difference(arms, name, measure)) for name in reversed(list(arms))]
    told = [(name, gap) for name, gap in rows if gap is not None]
    for place, (name, gap) in enumerate(told):
        half = 0.0 if math.isinf(gap.half) else gap.half
        axes.errorbar(
            gap.mean,
            place,
            xerr=half,
            color=colours[name],
            fmt="D" if math.isinf(gap.half) else "o",
            capsize=3,
            mfc=colours[name] if gap.significant else "white",
        )
    axes.axvline(0, color="black", lw=0.8)
    axes.set_yticks(
        range(len(told)), [f"{name}\nvs {ARMS[name].partner}" for name, _ in told], fontsize=8
    )
    unit = "nats per token" if measure == "loss" else "share found"
    axes.set(title=f"{MEASURES[measure]}: difference, 95 %", xlabel=f"{unit}, arm minus partner")


def _draw_cache(
    axes: Any, arms: Mapping[str, Mapping[int, Result]], colours: Mapping[str, Any]
) -> None:
    """Share of needles found over the bytes of the cache, a point per run."""
    for name, runs in arms.items():
        sizes = [result["kv_bytes_per_token"] for result in runs.values()]
        found = [result["far"] for result in runs.values()]
        axes.plot(sizes, found, "o", color=colours[name], alpha=0.7, label=name)
    axes.set(
        title=MEASURES["far"],
        xlabel="bytes of keys and entries per token",
        ylabel="share found",
        xlim=(0, None),
    )


def _smoothed(values: list[float], width: int) -> list[float]:
    """Means over the last `width` values."""
    return [mean(values[max(0, i + 1 - width) : i + 1]) for i in range(len(values))]
