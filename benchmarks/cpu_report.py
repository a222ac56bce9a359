"""The measurements of `cpu.py` as a table and as a picture."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

Record = dict[str, Any]
Column = tuple[str, int]
"""("prefill" or "decode", length or depth)."""

COLOURS = {"dsv4": "#2563eb", "llama.cpp": "#dc2626", "transformers": "#6b7280"}
FLOOR = "#111827"


def rates(records: Sequence[Record]) -> dict[str, dict[Column, float]]:
    """Tokens per second by engine and column: the median over rounds of the median repeat."""
    found: dict[str, dict[Column, list[float]]] = {}
    for record in records:
        if "seconds" in record:
            cells = found.setdefault(record["engine"], {})
            rate = record["tokens"] / statistics.median(record["seconds"])
            cells.setdefault((record["kind"], record["size"]), []).append(rate)
    ordered = [engine for engine in COLOURS if engine in found]
    return {
        engine: {column: statistics.median(values) for column, values in found[engine].items()}
        for engine in ordered
    }


def columns(records: Sequence[Record]) -> list[Column]:
    """Every size that was measured: prompts first, then depths."""
    found = {(record["kind"], record["size"]) for record in records if "seconds" in record}
    return sorted(found, key=lambda column: (column[0] != "prefill", column[1]))


def ceiling(records: Sequence[Record], key: str) -> float:
    """A measured bound of the machine: the median over rounds."""
    return statistics.median(r[key] for r in records if r.get("kind") == "ceilings")


def bounds(records: Sequence[Record]) -> dict[int, float]:
    """Steps per second that the read bandwidth allows, by depth.

    The bytes are those of dsv4's formats, for every engine: what the checkpoint as it was released
    makes necessary.
    """
    read = ceiling(records, "read_bytes")
    return {
        record["size"]: read / record["floor_bytes"]
        for record in records
        if record.get("kind") == "decode" and "floor_bytes" in record
    }


def own_share(records: Sequence[Record], depth: int) -> float | None:
    """dsv4's share of what the bandwidth allowed around its measurement: the median over rounds.

    Where that was not recorded, the bandwidth is that of the round.
    """
    usual = ceiling(records, "read_bytes")
    shares = [
        r["floor_bytes"]
        / r.get("read_bytes", usual)
        * r["tokens"]
        / statistics.median(r["seconds"])
        for r in records
        if r.get("kind") == "decode" and r.get("size") == depth and "floor_bytes" in r
    ]
    return statistics.median(shares) if shares else None


def table(records: Sequence[Record]) -> str:
    """Markdown: a row per engine, ratios to dsv4, and the share of what bandwidth allows."""
    found, names, most = rates(records), columns(records), bounds(records)
    first = records[0]
    versions = {r["engine"]: r["version"] for r in records if r.get("version")}
    rounds = max(record["round"] for record in records)
    lines = [
        f"{first['machine']}, {first['threads']} threads: reads "
        f"{ceiling(records, 'read_bytes') / 1e9:.1f} GB/s, GEMM "
        f"{ceiling(records, 'f32_flops') / 1e9:.0f} GFLOP/s float32, "
        f"{ceiling(records, 'bf16_flops') / 1e9:.0f} bfloat16. Checkpoint `{first['model']}`, "
        f"run {first['run']}, {first['date'][:10]}. Tokens per second, medians of up to {rounds} "
        "rounds:",
        "",
        _row("", [_title(column) for column in names] + ["peak memory"]),
        _row("---", ["---:"] * (len(names) + 1)),
    ]
    for engine, cells in found.items():
        shown = [f"{cells[column]:.1f}" if column in cells else "-" for column in names]
        peak = max(
            r["peak_rss_bytes"]
            for r in records
            if r.get("engine") == engine and "peak_rss_bytes" in r
        )
        version = versions.get(engine)
        label = f"{engine} ({version})" if version else engine
        lines.append(_row(label, [*shown, f"{peak / (1 << 30):.2f} GiB"]))
    own = found.get("dsv4", {})
    for engine, cells in found.items():
        if engine != "dsv4" and own:
            shown = [
                f"{own[column] / cells[column]:.2f} x" if column in own and column in cells else "-"
                for column in names
            ]
            lines.append(_row(f"dsv4 / {engine}", [*shown, ""]))
    if own and most:
        reached = [own_share(records, size) if kind == "decode" else None for kind, size in names]
        shown = ["" if share is None else f"{100 * share:.0f} %" for share in reached]
        lines.append(_row("dsv4, of the bandwidth floor", [*shown, ""]))
    skipped = [
        f"- {r['engine']}, {_title((r['kind'], r['size']))}: {r['skipped']}"
        for r in records
        if "skipped" in r and r["round"] == 1
    ]
    return "\n".join([*lines, *(["", "Left out:", *skipped] if skipped else [])])


def _row(name: str, cells: Sequence[str]) -> str:
    return f"| {' | '.join([name, *cells])} |"


def _title(column: Column) -> str:
    kind, size = column
    return f"prefill {short(size)}" if kind == "prefill" else f"decode @{short(size)}"


def short(size: int) -> str:
    """512, 2K, 64K, 1M."""
    for unit, step in (("M", 1 << 20), ("K", 1 << 10)):
        if size >= step and size % step == 0:
            return f"{size // step}{unit}"
    return str(size)


def plot(records: Sequence[Record], image: Path) -> None:
    """A picture: speed of prompts, speed of decoding, and its share of the bandwidth floor."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    found, most = rates(records), bounds(records)
    figure = Figure(figsize=(13, 4.4), dpi=140, layout="constrained")
    prompts, steps, shares = figure.subplots(1, 3)
    for engine, cells in found.items():
        for axes, kind in ((prompts, "prefill"), (steps, "decode")):
            line = sorted((size, rate) for (what, size), rate in cells.items() if what == kind)
            _line(axes, line, engine)
        own = engine == "dsv4"
        reached = sorted(
            (size, (own_share(records, size) if own else None) or rate / most[size])
            for (kind, size), rate in cells.items()
            if kind == "decode" and size in most
        )
        _line(shares, reached, engine)
    if most:
        steps.plot(
            *zip(*sorted(most.items()), strict=True),
            color=FLOOR,
            ls="--",
            lw=1.2,
            label="what reading the bytes allows",
        )
    prompts.set(title="Prefill", xlabel="tokens of the prompt", ylabel="tokens per second")
    steps.set(title="Decode", xlabel="tokens before", ylabel="tokens per second")
    shares.set(title="Decode, of the bandwidth floor", xlabel="tokens before")
    shares.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    shares.set_ylim(0, 1.0)
    for axes, kind in ((prompts, "prefill"), (steps, "decode"), (shares, "decode")):
        sizes = [size for what, size in columns(records) if what == kind]
        _scale(axes, sizes)
        if axes is not shares:
            axes.set_yscale("log")
            _plain_ticks(axes)
    shares.set_xlim(steps.get_xlim())
    handles, labels = steps.get_legend_handles_labels()
    if not handles:
        handles, labels = prompts.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    first = records[0]
    figure.suptitle(
        f"{first['model']} checkpoint on {first['machine']}, {first['threads']} threads "
        f"({ceiling(records, 'read_bytes') / 1e9:.0f} GB/s)"
    )
    image.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(image)


def _line(axes: Any, points: Sequence[tuple[int, float]], engine: str) -> None:
    if points:
        axes.plot(
            *zip(*points, strict=True),
            color=COLOURS[engine],
            marker="o",
            ms=4,
            lw=1.8,
            label=engine,
        )


def _scale(axes: Any, sizes: Sequence[int]) -> None:
    """Sizes at equal ratios; depth 0 stands where the axis begins."""
    from matplotlib.ticker import NullLocator

    positive = [size for size in sizes if size > 0]
    if positive:
        axes.set_xscale("symlog", base=2, linthresh=min(positive), linscale=0.7)
    axes.set_xticks(sizes, [short(size) for size in sizes])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def _plain_ticks(axes: Any) -> None:
    """1, 2, 5, 10, 20, ... written out."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.yaxis.set_major_locator(LogLocator(base=10, subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
