"""`dsv4 verify FOLDER`: headers, vocabulary, contents, numerics, in this order."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from dsv4 import checkpoint
from dsv4.checkpoint.plan import Plan
from dsv4.encoding.tokenizer import Tokenizer
from dsv4.errors import CheckpointError
from dsv4.evaluation.conformance import lengths
from dsv4.evaluation.conformance.comparison import Comparison
from dsv4.evaluation.conformance.contents import check_contents
from dsv4.evaluation.conformance.diagnosis import Diagnosis
from dsv4.evaluation.conformance.finding import Check, Finding, Report
from dsv4.evaluation.conformance.headers import check_headers
from dsv4.evaluation.conformance.pieces import Pieces
from dsv4.evaluation.conformance.variant import OP_BY_OP, Variant, usual
from dsv4.evaluation.conformance.vocabulary import check_vocabulary, digest
from dsv4.evaluation.conformance.walk import Layer, Walk
from dsv4.ops.fused import arithmetic

Progress = Callable[[str, int, int], None]
"""Told what is being done, how much of it is done, and how much there is."""

DIAGNOSED = 3
"""Layers with a difference that are looked at closely: each costs a pass per known failure."""


@dataclass(frozen=True, slots=True)
class Options:
    """What to do. `layers`: only the first so many. `length`: tokens of the prompt."""

    headers_only: bool = False
    layers: int | None = None
    length: int | None = None


def verify_folder(
    folder: Path,
    options: Options,
    variants: Sequence[Variant] | None = None,
    progress: Progress = lambda what, done, total: None,
) -> Report:
    """Everything the kit can tell about a folder. Raises what reading files raises.

    `variants`: what to compare instead of the usual.
    """
    report = Report(str(folder))
    with _timed(report, "headers", "names, shapes, formats, sizes, configuration"):
        plan, findings = check_headers(folder)
        report.findings += findings
    if plan is None:
        return report
    report.facts |= _facts(folder, plan)
    with _timed(report, "vocabulary", "tokenizer, special ids, token map"):
        report.findings += check_vocabulary(plan)
    if options.headers_only or report.count("error"):
        return report
    layers = min(options.layers or plan.config.num_hidden_layers, plan.config.num_hidden_layers)
    with _timed(report, "contents", "NaN, dead tensors, scales, tables"):
        report.findings += check_contents(
            plan, layers, lambda done, total: progress("contents", done, total)
        )
    if report.count("error"):
        return report  # numbers computed from damaged ones say nothing
    length = options.length or lengths.default_length(plan.config)
    chosen = usual() if variants is None else variants
    what = f"{layers} layers, a prompt of {length} tokens: {', '.join(v.name for v in chosen)}"
    with _timed(report, "numerics", what):
        _numerics(report, plan, chosen, layers, length, progress)
    return report


@contextmanager
def _timed(report: Report, name: str, what: str) -> Iterator[None]:
    begin = time.perf_counter()
    yield
    report.checks.append(Check(name, what, time.perf_counter() - begin))


def _facts(folder: Path, plan: Plan) -> dict[str, str]:
    config = plan.config
    ratios = config.layer_ratios
    return {
        "layers": f"{len(ratios)}: {ratios.count(0)} SWA, {ratios.count(4)} CSA, "
        f"{ratios.count(128)} HCA; {config.num_hash_layers} hash-routed",
        "experts": f"{config.n_routed_experts} of which {config.num_experts_per_tok}, "
        f"{config.expert_dtype or 'fp4'}",
        "layout": plan.layout,
        "bytes": f"{plan.nbytes} in {len(plan.sources)} weights",
        "identity": checkpoint.identity(folder).hex(),
        "tokenizer": digest(folder) or "none",
        "kernels": arithmetic(),
    }


@dataclass(slots=True)
class _Examiner:
    """Looks at layers that differ, while their weights are there."""

    variants: Sequence[Variant]
    diagnoses: dict[str, Diagnosis] = field(default_factory=dict)
    seen: dict[str, int] = field(default_factory=dict)

    def visit(self, layer: Layer, rows: Sequence[Comparison]) -> None:
        for variant in self.variants:
            failed = [row for row in rows if row.variant == variant.name and not row.ok]
            if not failed or self.seen.get(variant.name, 0) >= DIAGNOSED:
                continue
            self.seen[variant.name] = self.seen.get(variant.name, 0) + 1
            diagnosis = self.diagnoses.setdefault(
                variant.name, Diagnosis(variant.numerics, variant.against[-1][1])
            )
            parts = layer.computed[variant.name]
            diagnosis.add(layer.block, layer.inputs, layer.ticket, {variant.name: parts})

    def suspects(self, variant: str) -> list[str]:
        diagnosis = self.diagnoses.get(variant)
        found = [] if diagnosis is None else diagnosis.suspects(variant)
        return [f"{s.fault.name} (explains {100 * (1 - s.remains):.0f} %)" for s in found]


def _numerics(
    report: Report,
    plan: Plan,
    variants: Sequence[Variant],
    layers: int,
    length: int,
    progress: Progress,
) -> None:
    pieces = Pieces(plan, lambda size: Tokenizer.from_folder(plan.folder).canonical_ids(size))
    examiner = _Examiner(variants)
    walk = Walk(
        pieces,
        lengths.prompt(plan.config, length),
        variants,
        lengths.boundaries(plan.config, length),
        layers,
        examiner.visit,
        lambda done, total: progress("numerics", done, total),
    )
    try:
        report.comparisons += walk.run()
    except CheckpointError as error:
        report.findings.append(Finding(str(error), "numerics", hint=error.hint))
        return
    for variant in variants:
        failed = [row for row in walk.rows if row.variant == variant.name and not row.ok]
        if failed:
            report.findings.append(divergence(failed, examiner.suspects(variant.name)))


def divergence(failed: Sequence[Comparison], suspects: Sequence[str]) -> Finding:
    """What to say about comparisons of one variant that are out of bounds."""
    first = failed[0]
    place = f"from position {first.first} on" if first.first is not None else "over all positions"
    what = (
        f"{first.variant} is {first.relative:.2g} from {first.against} ({place}), "
        f"{first.allowed:.2g} is allowed; {len(failed)} comparisons differ"
    )
    return Finding(
        what,
        f"{first.layer} ({first.kind}), {first.part}",
        resembles=" or ".join(suspects) or None,
        sure="certain",
        hint="the kernels of this machine compute something else: report it with `dsv4 doctor`"
        if first.against == OP_BY_OP
        else None,
    )
