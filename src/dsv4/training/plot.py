"""The loss curve of a run as a picture (needs the `plot` extra: matplotlib)."""

from __future__ import annotations

import json
from pathlib import Path

from dsv4.errors import DataError, UsageError


def plot_losses(metrics: Path, image: Path, title: str) -> None:
    """Draw training, held-out and MTP loss over tokens into a PNG.

    Raises UsageError without matplotlib, DataError if there are no metrics.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UsageError("drawing needs matplotlib", "pip install matplotlib") from error
    try:
        records = [json.loads(line) for line in metrics.read_text().splitlines()]
    except (OSError, ValueError) as error:
        raise DataError(f"no readable metrics at {metrics}: {error}") from error
    if not records:
        raise DataError(f"{metrics} is empty")
    tokens = [record["tokens"] / 1e6 for record in records]
    figure = Figure(figsize=(8, 4.5), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    train, mtp = "#2563eb", "#9ca3af"
    smooth = _smoothed([record["loss"] for record in records])
    axes.plot(tokens, [record["loss"] for record in records], color=train, alpha=0.2, lw=0.8)
    axes.plot(
        tokens,
        _smoothed([r["mtp_loss"] for r in records]),
        color=mtp,
        lw=1.2,
        label="training, token after next (MTP)",
    )
    axes.plot(tokens, smooth, color=train, lw=1.8, label="training, next token")
    held = [(r["tokens"] / 1e6, r["validation_loss"]) for r in records if "validation_loss" in r]
    if held:
        axes.plot(
            *zip(*held, strict=True),
            color="#dc2626",
            marker="o",
            ms=3.5,
            lw=1.4,
            label=f"held-out, next token (last {held[-1][1]:.3f})",
        )
    axes.set(title=title, xlabel="tokens trained on (millions)", ylabel="loss (nats per token)")
    axes.set_ylim(min(smooth) * 0.85, smooth[min(len(smooth) - 1, 10)] * 1.1)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    image.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(image)


def _smoothed(values: list[float], weight: float = 0.95) -> list[float]:
    """Exponential average without the bias of its start."""
    mean, norm, out = 0.0, 0.0, []
    for value in values:
        mean, norm = weight * mean + (1 - weight) * value, weight * norm + (1 - weight)
        out.append(mean / norm)
    return out
