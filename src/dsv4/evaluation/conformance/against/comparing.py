"""`dsv4 verify MODEL --against OTHER`: where another implementation's predictions leave `exact`.

Whatever it is, what it may differ by is measured here: rounding as released (`official`) and what
this machine runs (`fast`) differ from `exact` too, on the same text.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from dsv4 import checkpoint
from dsv4.checkpoint.plan import Plan, make_plan
from dsv4.encoding.tokenizer import Tokenizer
from dsv4.errors import UsageError
from dsv4.evaluation.conformance import lengths
from dsv4.evaluation.conformance.against import oracle, texts
from dsv4.evaluation.conformance.against.drift import (
    NOISE,
    Drift,
    divergences,
    drift,
    seen_as,
)
from dsv4.evaluation.conformance.against.explaining import named, suspects
from dsv4.evaluation.conformance.against.files import SUFFIXES, read_file
from dsv4.evaluation.conformance.against.predictions import Predictions
from dsv4.evaluation.conformance.against.server import Server
from dsv4.evaluation.conformance.diagnosis import NEAR, Suspect
from dsv4.evaluation.conformance.finding import Check, Finding, Report
from dsv4.evaluation.conformance.pieces import Pieces
from dsv4.evaluation.conformance.variant import TRUTH, Variant
from dsv4.evaluation.conformance.ways import logits
from dsv4.evaluation.distance import BOUND
from dsv4.numerics.policy import EXACT, FAST, OFFICIAL

PEAK = 4.0
"""How many times the largest divergence of our roundings one position's may be: the edges of two
roundings, and near ties of the indexer, are elsewhere in each implementation."""

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Other:
    """What to compare with: `transformers`, a file or a URL.

    `served`: what a server calls the model; `key`: its API key. `length`: tokens of the prompt,
    unless a file has its own. `thorough`: also look for a failure that rounding would hide.
    """

    name: str
    served: str | None = None
    key: str | None = None
    length: int | None = None
    thorough: bool = True


def verify_against(
    folder: Path, other: Other, progress: Progress = lambda what, done, total: None
) -> Report:
    """Compare another implementation's predictions with those of a folder's model.

    Raises UsageError for what is nothing to compare with, RequestError for a server that gives no
    log-probabilities, and what reading the folder raises.
    """
    plan = make_plan(folder)
    report = Report(str(folder))
    begin = time.perf_counter()
    found = _predictions(plan, other, progress)
    report.checks.append(Check("predictions", found.how, time.perf_counter() - begin))
    report.facts |= {
        "against": found.source,
        "text": f"{len(found.ids)} tokens, {len(found.positions)} places compared",
        "identity": checkpoint.identity(folder).hex(),
    }
    begin = time.perf_counter()
    compare(report, plan, found, progress, thorough=other.thorough)
    names = ", ".join(row.of for row in report.drifts)
    report.checks.append(Check("comparison", f"{names} from exact", time.perf_counter() - begin))
    return report


def _predictions(plan: Plan, other: Other, progress: Progress) -> Predictions:
    config = plan.config
    if other.name == oracle.NAME:
        length = other.length or lengths.default_length(config)
        return oracle.predict(plan, lengths.prompt(config, length))
    if other.name.startswith(("http://", "https://")):
        length = other.length or lengths.length_of_prefixes(config)
        present = (plan.folder / "tokenizer.json").is_file()
        tokenizer = Tokenizer.from_folder(plan.folder, config.vocab_size) if present else None
        ids = texts.draw(tokenizer, length) if tokenizer else lengths.prompt(config, length)
        name = other.served or plan.folder.resolve().name
        server = Server(other.name, name, config, tokenizer, other.key)
        return server.predict(ids, lambda done, total: progress("server", done, total))
    if Path(other.name).suffix in SUFFIXES:
        return read_file(Path(other.name), config)
    raise UsageError(
        f"{other.name} is nothing to compare with",
        "transformers, a file (.safetensors, .npz) or a URL such as http://127.0.0.1:8000/v1",
    )


def compare(
    report: Report, plan: Plan, other: Predictions, progress: Progress, *, thorough: bool
) -> None:
    """Add to a report how far `other` and our roundings are from `exact`, and what follows."""
    folder = plan.folder
    pieces = Pieces(plan, lambda size: Tokenizer.from_folder(folder).canonical_ids(size))
    variants = [
        Variant(TRUTH, EXACT, ()),
        Variant("official", OFFICIAL, ()),
        Variant("fast", FAST, ()),
    ]
    own: dict[str, Tensor] = {
        name: logits_PV.double().log_softmax(-1)
        for name, logits_PV in logits(
            pieces,
            other.ids,
            variants,
            other.positions,
            lambda done, total: progress("reference", done, total),
        )
    }
    exact_PV = own[TRUTH]
    theirs = drift(other, exact_PV)
    ours = [
        drift(seen_as(other, name, values), exact_PV)
        for name, values in own.items()
        if name != TRUTH
    ]
    report.drifts += [theirs, *ours]
    mean, peak = _bounds(ours)
    wrong = theirs.mean > mean or theirs.divergence[theirs.worst] > peak
    found: list[Suspect] = []
    same = [
        name for name, values in own.items() if float(divergences(other, values).max()) <= NOISE
    ]
    if wrong or (thorough and not same):
        found = suspects(
            pieces, other, own, peak, lambda done, total: progress("failures", done, total)
        )
    report.findings.append(_finding(theirs, mean, peak, found, wrong=wrong))
    for name in same:
        report.findings.append(Finding(f"predictions are those of {name}", other.source, "note"))


def _bounds(ours: Sequence[Drift]) -> tuple[float, float]:
    """What the mean divergence may be, and that of one position."""
    mean = BOUND * max(row.mean for row in ours)
    return max(NOISE, mean), max(NOISE, PEAK * max(row.divergence[row.worst] for row in ours))


def _finding(
    theirs: Drift, mean: float, peak: float, found: Sequence[Suspect], *, wrong: bool
) -> Finding:
    at = theirs.positions[theirs.worst]
    what = (
        f"mean divergence from exact {theirs.mean:.2g} nats ({mean:.2g} is allowed), largest "
        f"{theirs.divergence[theirs.worst]:.2g} after {at + 1} tokens ({peak:.2g}); largest "
        f"difference of a log-probability {max(theirs.logprob):.2g}, the likeliest token is the "
        f"same at {100 * sum(theirs.top) / len(theirs.top):.0f} % of {len(theirs.top)} places"
    )
    if wrong:
        # Where rounding would not reach: the first place is where to look.
        limit = peak if theirs.divergence[theirs.worst] > peak else mean
        rows = zip(theirs.positions, theirs.divergence, strict=True)
        first = next(position for position, value in rows if not value <= limit)
        return Finding(
            what,
            f"{theirs.of}, from {first + 1} tokens on",
            resembles=named(found),
            hint=found[0].fault.hint if found else UNKNOWN,
        )
    if found:
        proved = found[0].remains <= NEAR
        what += "; it differs no more than rounding does, but as this failure would"
        return Finding(
            what,
            theirs.of,
            "error" if proved else "warning",
            "certain" if proved else "likely",
            named(found),
            found[0].fault.hint,
        )
    return Finding(what, theirs.of, "note")


UNKNOWN = "another checkpoint or tokenizer, weights of fewer bits, or a failure that is not known"
