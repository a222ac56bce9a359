"""Results of an evaluation: one JSON file, Markdown tables, and the section of a model card.

The numbers of a card come from here alone; between its two marks nothing is written by hand.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from dsv4.errors import DataError, UsageError
from dsv4.evaluation import published
from dsv4.evaluation.benchmark import Result, Row
from dsv4.evaluation.benchmarks.catalogue import BENCHMARKS
from dsv4.files import replace_text
from dsv4.pricing.price import money

FILE_NAME = "results.json"
BEGIN, END = "<!-- dsv4 eval: begin -->", "<!-- dsv4 eval: end -->"

_TEXT = ("text", "text-bigram", "text-5gram")
_COLUMNS = {"text": "model", "text-bigram": "bigram", "text-5gram": "5-gram"}


@dataclass(frozen=True)
class Report:
    """What is known of one target. about: model, fingerprint, version, command and so on."""

    about: Mapping[str, Any]
    results: Mapping[str, Result]

    def save(self, folder: Path) -> Path:
        """Write `results.json`."""
        path = folder / FILE_NAME
        replace_text(path, json.dumps(self.json(), indent=1, ensure_ascii=False) + "\n")
        return path

    def json(self) -> dict[str, Any]:
        """As JSON; ends of intervals that do not exist are null."""
        results = {name: _without_nan(asdict(result)) for name, result in self.results.items()}
        return {**self.about, "benchmarks": results}


def read(path: Path) -> Report:
    """A report from its file or folder. Raises DataError if it is none."""
    path = path / FILE_NAME if path.is_dir() else path
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
        found = about.pop("benchmarks")
        results = {name: _result(values) for name, values in found.items()}
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}", "run dsv4 eval first") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path} holds no results of an evaluation: {error}") from error
    return Report(about, results)


def merged(folder: Path, about: Mapping[str, Any], results: Iterable[Result]) -> Report:
    """New results, with those of other benchmarks that `folder` already has of the same target."""
    together = {result.name: result for result in results}
    if (folder / FILE_NAME).is_file():
        old = read(folder)
        if old.about.get("fingerprint") == about["fingerprint"]:
            together = {**old.results, **together}
    ours = [name for name in BENCHMARKS if name in together]
    others = sorted(together.keys() - BENCHMARKS.keys())  # of other harnesses
    return Report(about, {name: together[name] for name in (*ours, *others)})


def _result(values: dict[str, Any]) -> Result:
    rows = tuple(_row(row) for row in values.pop("rows"))
    return Result(**{**values, "rows": rows, "samples": tuple(values["samples"])})


def _row(values: dict[str, Any]) -> Row:
    known: dict[str, Any] = {k: math.nan if v is None else v for k, v in values.items()}
    return Row(**known)


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def markdown(report: Report, stages: Mapping[str, Report] | None = None) -> str:
    """All results as Markdown; `stages`: the same model at other stages of its training, whose
    bits per byte stand beside its own."""
    parts = []
    if any(name in report.results for name in _TEXT):
        parts.append(_text_section(report, stages or {}))
    for name, result in report.results.items():
        if name not in _TEXT:
            parts.append(_section(name, result))
    beside = published.compared(report.results)
    if beside:
        parts.append(f"### Beside published numbers\n\n{published.note()}\n\n{table(beside)}")
    parts.append(_origin(report))
    return "\n\n".join(parts) + "\n"


def _origin(report: Report) -> str:
    """How to get the same numbers, and where these come from."""
    about = report.about
    used: dict[str, list[str]] = {}
    for name, result in report.results.items():
        used.setdefault(result.options, []).append(name)
    commands = []
    for options, names in used.items():
        ours = [BENCHMARKS[name] for name in names if name in BENCHMARKS]
        usual = len(used) == 1 and all(benchmark.suite == "own" for benchmark in ours)
        only = "" if usual or not ours else f"--only {','.join(b.name for b in ours)}"
        commands.append(" ".join(("   ", *filter(None, (about["command"], options, only)))))
    seconds = sum(result.seconds for result in report.results.values())
    where = f", numerics {about['numerics']}, on {about['machine']}" if "machine" in about else ""
    paid = _paid(report.results.values())
    return (
        "Means with 95 % confidence intervals (Wilson for shares, otherwise bootstrap). "
        "Measured by\n\n" + "\n".join(commands) + f"\n\nin {seconds:.0f} seconds with dsv4 "
        f"{about['version']}{where}.{paid}"
    )


def _paid(results: Iterable[Result]) -> str:
    """What a service charged for."""
    charged = [result for result in results if result.prompt_tokens]
    if not charged:
        return ""
    prompt, answer = (
        sum(getattr(r, f"{kind}_tokens") for r in charged) for kind in ("prompt", "answer")
    )
    costs = [Decimal(result.cost) for result in charged if result.cost is not None]
    cost = f", {money(sum(costs, Decimal(0)))}" if costs else ""
    return f" Charged: {prompt:,} prompt and {answer:,} answer tokens{cost}."


def _text_section(report: Report, stages: Mapping[str, Report]) -> str:
    columns: dict[str, Mapping[str, Row]] = {}
    for label, stage in stages.items():
        columns[label] = _by_group(stage.results.get("text"))
    for name in _TEXT:
        if name in report.results:
            columns[_COLUMNS[name]] = _by_group(report.results[name])
    groups = dict.fromkeys(group for column in columns.values() for group in column)
    head = ["", "documents", *columns]
    lines: list[list[str]] = []
    parts: list[list[str]] = []
    for group in groups:
        found = [column.get(group) for column in columns.values()]
        count = next(row.count for row in found if row is not None)
        shown = ["" if row is None else _number(row) for row in found]
        is_part = any(row is not None and row.detail for row in found)
        (parts if is_part else lines).append([group, str(count), *shown])
    benchmark = BENCHMARKS["text"]
    about = [benchmark.about]
    if any(name in report.results for name in _TEXT[1:]):
        about.append("n-grams: " + BENCHMARKS["text-bigram"].about)
    return f"### {benchmark.title}\n\n{' '.join(about)}\n\n{_tables(head, lines, parts)}"


def _by_group(result: Result | None) -> dict[str, Row]:
    rows = () if result is None else result.rows
    return {row.group: row for row in rows if row.measure == "bits per byte"}


def _section(name: str, result: Result) -> str:
    known = BENCHMARKS.get(name)
    title, about = (known.title, known.about) if known else (name, "Asked and judged by Inspect.")
    head = f"### {title}\n\n{about}\n\n"
    if result.samples:
        return head + "\n\n".join(_sample(sample) for sample in result.samples)
    measures = list(dict.fromkeys(row.measure for row in result.rows))
    groups: dict[str, dict[str, Row]] = {}
    for row in result.rows:
        groups.setdefault(row.group, {})[row.measure] = row
    names = ["", "items", *(measure.replace("_", " ") for measure in measures)]
    lines: list[list[str]] = []
    parts: list[list[str]] = []
    for group, cells in groups.items():
        count = max(row.count for row in cells.values())
        shown = [_number(cells[measure]) if measure in cells else "" for measure in measures]
        is_part = any(row.detail for row in cells.values())
        (parts if is_part else lines).append([group, str(count), *shown])
    return head + _tables(names, lines, parts)


def _tables(head: list[str], lines: list[list[str]], parts: list[list[str]]) -> str:
    """A table, and one of details that is folded away."""
    if not parts:
        return table([head, *lines])
    folded = f"<details><summary>in parts</summary>\n\n{table([head, *parts])}\n\n</details>"
    return f"{table([head, *lines])}\n\n{folded}"


def _sample(sample: Mapping[str, Any]) -> str:
    text = sample["text"].strip().replace("\n", "\n> ")
    cut = "" if sample["ended"] else " ..."
    return f"**{sample['prompt']}** ({sample['group']})\n\n> {text}{cut}"


def _number(row: Row) -> str:
    """The mean and its interval: shares in percent, bits per byte as they are."""
    if not row.count:
        return ""
    if row.measure == "bits per byte":
        shown, low, high = f"{row.mean:.3f}", f"{row.low:.3f}", f"{row.high:.3f}"
    else:
        shown, low, high = (f"{100 * value:.1f}" for value in (row.mean, row.low, row.high))
        shown += " %"
    return shown if math.isnan(row.low) else f"{shown} ({low} to {high})"


def table(lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table, its first line the heading."""
    head, *rest = ("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |"
                   for line in lines)  # fmt: skip
    return "\n".join([head, "|---" * len(lines[0]) + "|", *rest])


def write_card(path: Path, section: str) -> None:
    """Replace what stands between the marks of a model card.

    Raises UsageError for a card without the two marks.
    """
    before, after = card_around(path)
    replace_text(path, f"{before}{BEGIN}\n{section.strip()}\n{END}{after}")


def card_around(path: Path) -> tuple[str, str]:
    """What stands before and after the marks of a model card. Raises UsageError as `write_card`."""
    try:
        card = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}", "name a model card") from error
    before, begin, rest = card.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise UsageError(
            f"{path} has no place for results", f"put the lines {BEGIN} and {END} where they belong"
        )
    return before, after
