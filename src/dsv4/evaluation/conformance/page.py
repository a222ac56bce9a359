"""A report as one HTML page that needs no other file and no network."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from dsv4.evaluation.conformance import plot
from dsv4.evaluation.conformance.against.drift import Drift
from dsv4.evaluation.conformance.comparison import CHOICES, Comparison
from dsv4.evaluation.conformance.finding import Finding, Report, Skipped
from dsv4.evaluation.conformance.parts import ORDER
from dsv4.evaluation.conformance.summary import summarize
from dsv4.version import __version__

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem;
  color: #1c2128; background: #fff }
h1, h2 { line-height: 1.2 } h2 { margin-top: 2.2rem }
table { border-collapse: collapse; width: 100%; font-size: 14px }
th, td { text-align: left; padding: .25rem .7rem .25rem 0; border-bottom: 1px solid #d8dee4;
  vertical-align: top; overflow-wrap: anywhere }
td { white-space: pre-line }
td.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap }
.passed, .note { color: #2f8f4e } .failed, .error { color: #b3261e } .warning { color: #9a6700 }
.plots { display: grid; grid-template-columns: repeat(auto-fill, minmax(26rem, 1fr)); gap: 1rem }
svg { width: 100%; font: 11px system-ui, sans-serif } svg .title { font-weight: 600 }
svg line { stroke: #d8dee4 } svg polyline { fill: none; stroke-width: 1.5 }
.legend span { margin-right: 1.2em }
svg .left { text-anchor: end } svg .below { text-anchor: middle }
"""


def page(report: Report) -> str:
    """The whole page."""
    verdict = "passed" if report.passed else "failed"
    body = [
        f"<h1>{escape(report.subject)}: <span class={verdict}>{verdict}</span></h1>",
        f"<p>{report.count('error')} errors, {report.count('warning')} warnings, "
        f"{report.count('note')} notes. Written by dsv4 {escape(__version__)}.</p>",
        *_findings(report.findings),
        "<h2>What was looked at</h2>",
        _table(
            ("check", "of what", "seconds"),
            ((c.name, c.what, f"{c.seconds:.1f}") for c in report.checks),
            numbers=1,
        ),
        *_skipped(report.skipped),
        "<h2>What was verified</h2>",
        _table(("", ""), report.facts.items()),
        *_numbers(report.comparisons),
        *_predictions(report.drifts),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>dsv4 verify: {escape(report.subject)}</title><style>{_STYLE}</style></head>\n"
        f"<body>{''.join(body)}</body></html>\n"
    )


def _findings(findings: Sequence[Finding]) -> Iterable[str]:
    if not findings:
        return
    yield "<h2>Findings</h2><table><tr><th></th><th>where</th><th>what</th><th>sure</th></tr>"
    for one in findings:
        more = f"<br>resembles: {escape(one.resembles)}" if one.resembles else ""
        more += f"<br>hint: {escape(one.hint)}" if one.hint else ""
        yield (
            f"<tr><td class={one.severity}>{one.severity}</td><td>{escape(one.where)}</td>"
            f"<td>{escape(one.what)}{more}</td><td>{one.sure}</td></tr>"
        )
    yield "</table>"


def _skipped(skipped: Sequence[Skipped]) -> Iterable[str]:
    if skipped:
        yield "<h2>What was not looked at</h2>"
        yield _table(("", "why"), ((one.name, one.why) for one in skipped))


def _numbers(comparisons: Sequence[Comparison]) -> Iterable[str]:
    if not comparisons:
        return
    yield "<h2>Numbers, layer by layer</h2>"
    yield (
        "<p>Relative L2 difference from what is named, every part fed with the inputs that exact "
        "has there; streams and logits are those of each variant's own way.</p>"
    )
    layers = list(dict.fromkeys(row.layer for row in comparisons))
    short = [name.removeprefix("layers.") for name in layers]
    chosen = plot.colours(list(dict.fromkeys(_series(row) for row in comparisons)))
    yield plot.legend(chosen)
    yield "<div class=plots>"
    for part in (*ORDER, "streams"):
        rows = [row for row in comparisons if row.part == part and part not in CHOICES]
        if any(row.relative for row in rows):
            series: dict[str, list[tuple[int, float]]] = {}
            for row in rows:
                series.setdefault(_series(row), []).append((layers.index(row.layer), row.relative))
            yield plot.lines(part, short, series, chosen)
    yield "</div>"
    yield _table(
        ("variant", "from", "part", "nearest to its bound", "relative", "allowed", "beyond"),
        (
            (
                row.worst.variant,
                row.worst.against,
                row.worst.part,
                row.worst.layer,
                f"{row.worst.relative:.2e}",
                "" if row.worst.allowed is None else f"{row.worst.allowed:.2e}",
                f"{row.failed} of {row.layers}",
            )
            for row in summarize(comparisons)
        ),
        numbers=3,
    )


def _predictions(drifts: Sequence[Drift]) -> Iterable[str]:
    if not drifts:
        return
    yield "<h2>Predictions, place by place</h2>"
    yield "<p>KL divergence from exact in nats, after so many tokens of the text.</p>"
    names = [str(position + 1) for position in drifts[0].positions]
    series = {drift.of: list(enumerate(drift.divergence)) for drift in drifts}
    chosen = plot.colours(list(series))
    yield plot.legend(chosen)
    yield plot.lines("divergence from exact", names, series, chosen)
    rows = [drift.as_json() for drift in drifts]
    yield _table(
        ("from exact", "mean KL", "largest", "after", "log-probability", "same top", "same rank"),
        (
            (
                row["of"],
                f"{row['divergence']:.2e}",
                f"{row['largest_divergence']:.2e}",
                str(row["at"] + 1),
                f"{row['logprob']:.2e}",
                f"{100 * row['top']:.1f} %",
                f"{100 * row['overlap']:.1f} %",
            )
            for row in rows
        ),
        numbers=6,
    )


def _series(row: Comparison) -> str:
    return f"{row.variant} from {row.against}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], numbers: int = 0) -> str:
    """A table whose last `numbers` columns are numbers."""
    first = len(head) - numbers
    parts = ["<table><tr>", *(f"<th>{escape(name)}</th>" for name in head), "</tr>"]
    for row in rows:
        parts.append("<tr>")
        for i, cell in enumerate(row):
            parts.append(f"<td{' class=number' if i >= first else ''}>{escape(cell)}</td>")
        parts.append("</tr>")
    return "".join(parts) + "</table>"
