"""The curves of a run as a picture (needs the `plot` extra: matplotlib)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from dsv4.errors import UsageError
from dsv4.training.metrics import Record, read_steps

_BLUE, _GREY, _RED, _GREEN = "#2563eb", "#9ca3af", "#dc2626", "#059669"


def plot_losses(metrics: Path, image: Path, title: str) -> None:
    """Draw training, held-out and MTP loss over tokens into a PNG.

    Raises UsageError without matplotlib, DataError if there are no metrics.
    """
    figure = _figure(8, 4.5)
    axes = figure.add_subplot()
    _draw_loss(axes, read_steps(metrics))
    axes.set(title=title, xlabel="tokens trained on (millions)")
    _save(figure, image)


def plot_run(metrics: Path, image: Path, title: str) -> None:
    """Draw loss, learning rate, gradient norm and load of the experts over tokens into a PNG.

    Raises UsageError without matplotlib, DataError if there are no metrics.
    """
    records = read_steps(metrics)
    figure = _figure(10, 7)
    figure.suptitle(title)
    panels: Sequence[Callable[[Any, list[Record]], None]] = (
        _draw_loss,
        _draw_rate,
        _draw_norm,
        _draw_load,
    )
    for place, draw in enumerate(panels):
        axes = figure.add_subplot(2, 2, place + 1)
        draw(axes, records)
        if place >= 2:
            axes.set(xlabel="tokens trained on (millions)")
    _save(figure, image)


def _draw_loss(axes: Any, records: list[Record]) -> None:
    tokens, losses = _series(records, "loss")
    if not losses:
        return
    smooth = _smoothed(losses)
    axes.plot(tokens, losses, color=_BLUE, alpha=0.2, lw=0.8)
    further = _series(records, "mtp_loss")
    if any(further[1]):
        axes.plot(further[0], _smoothed(further[1]), color=_GREY, lw=1.2, label="training, MTP")
    axes.plot(tokens, smooth, color=_BLUE, lw=1.8, label="training")
    held = _series(records, "validation_loss")
    if held[1]:
        label = f"held-out (last {held[1][-1]:.3f})"
        axes.plot(*held, color=_RED, marker="o", ms=3.5, lw=1.4, label=label)
    axes.set(ylabel="loss (nats per token)")
    axes.set_ylim(min(smooth) * 0.85, smooth[min(len(smooth) - 1, 10)] * 1.1)
    axes.legend(frameon=False)


def _draw_rate(axes: Any, records: list[Record]) -> None:
    axes.plot(*_series(records, "lr"), color=_BLUE, lw=1.4)
    axes.set(ylabel="learning rate")


def _draw_norm(axes: Any, records: list[Record]) -> None:
    tokens, norms = _series(records, "grad_norm")
    axes.plot(tokens, norms, color=_GREY, alpha=0.4, lw=0.8)
    axes.plot(tokens, _smoothed(norms), color=_BLUE, lw=1.4)
    axes.set(ylabel="norm of the gradients", yscale="log")


def _draw_load(axes: Any, records: list[Record]) -> None:
    tokens, loads = _series(records, "overload")
    axes.plot(tokens, loads, color=_GREY, alpha=0.4, lw=0.8)
    axes.plot(tokens, _smoothed(loads), color=_GREEN, lw=1.4, label="fullest layer")
    axes.set(ylabel="busiest expert's load / mean")
    detailed = [r for r in records if r.get("layer_overload")]
    layers = detailed[-1]["layer_overload"] if detailed else {}
    for layer in layers:
        known = [r for r in detailed if layer in r["layer_overload"]]
        loads = [r["layer_overload"][layer] for r in known]
        axes.plot([r["tokens"] / 1e6 for r in known], loads, color=_BLUE, alpha=0.3, lw=0.7)
    axes.legend(frameon=False)


def _series(records: list[Record], name: str) -> tuple[list[float], list[float]]:
    """(millions of tokens, values) where the metric was measured."""
    known = [record for record in records if name in record]
    return [r["tokens"] / 1e6 for r in known], [r[name] for r in known]


def _figure(width: float, height: float) -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UsageError("drawing needs matplotlib", "pip install matplotlib") from error
    return Figure(figsize=(width, height), dpi=150, layout="constrained")


def _save(figure: Any, image: Path) -> None:
    for axes in figure.axes:
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    image.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(image)


def _smoothed(values: list[float], weight: float = 0.95) -> list[float]:
    """Exponential average without the bias of its start."""
    mean, norm, out = 0.0, 0.0, []
    for value in values:
        mean, norm = weight * mean + (1 - weight) * value, weight * norm + (1 - weight)
        out.append(mean / norm)
    return out
