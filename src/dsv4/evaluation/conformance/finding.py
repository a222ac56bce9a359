"""What a check found, and everything one run of the kit did."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from dsv4.evaluation.conformance.against.drift import Drift
from dsv4.evaluation.conformance.comparison import Comparison

Severity = Literal["error", "warning", "note"]
Certainty = Literal["certain", "likely", "possible"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing to know about a deployment.

    `what`: a sentence. `where`: a file, a tensor, or a part of a layer. `severity`: an error makes
    the run fail; a warning is unusual but may be meant; a note is a fact. `sure`: `certain` is read
    from the bytes or proved by a number out of its bounds, `likely` and `possible` are inferred.
    `resembles`: the known failure whose numbers these are, if any. `hint`: what to do.
    """

    what: str
    where: str
    severity: Severity = "error"
    sure: Certainty = "certain"
    resembles: str | None = None
    hint: str | None = None


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at: its name, what exactly (and what it gave, a line each), how
    long it took in seconds."""

    name: str
    what: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Skipped:
    """Something that was not looked at, and why not."""

    name: str
    why: str


@dataclass(slots=True)
class Report:
    """Everything a run of `dsv4 verify` did and found.

    `facts`: what was verified (model, sizes, digests), in the order they are shown. `drifts`: of
    another implementation's predictions and of our roundings. Filled by `verify.verify_folder`,
    `probes.run.verify_url` and others, read by the forms (text, JSON, page).
    """

    subject: str
    facts: dict[str, str] = field(default_factory=dict)
    checks: list[Check] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    comparisons: list[Comparison] = field(default_factory=list)
    drifts: list[Drift] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether there is no error among the findings."""
        return all(finding.severity != "error" for finding in self.findings)

    def as_json(self) -> dict[str, Any]:
        """Plain values; numbers that are not finite become text, which JSON has no number for."""
        comparisons = [asdict(row) | {"ok": row.ok} for row in self.comparisons]
        return {
            "subject": self.subject,
            "passed": self.passed,
            "facts": self.facts,
            "checks": [asdict(check) for check in self.checks],
            "findings": [asdict(finding) for finding in self.findings],
            "comparisons": _plain(comparisons),
            "predictions": _plain([drift.as_json() for drift in self.drifts]),
            "skipped": [asdict(one) for one in self.skipped],
        }

    def count(self, severity: Severity) -> int:
        """How many findings are of this severity."""
        return sum(finding.severity == severity for finding in self.findings)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_plain(one) for one in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
