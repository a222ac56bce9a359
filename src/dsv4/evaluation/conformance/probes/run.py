"""`dsv4 verify URL`: one probe after the other, within a budget."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from dsv4.errors import RequestError
from dsv4.evaluation.client import NO_ANSWER
from dsv4.evaluation.conformance.finding import Check, Finding, Report, Skipped
from dsv4.evaluation.conformance.probes.budget import Spent
from dsv4.evaluation.conformance.probes.probe import Measured, Probe
from dsv4.evaluation.conformance.probes.service import Service

Progress = Callable[[str, int, int], None]
"""Told the probe that runs, how many are done and how many there are."""

REFUSED = frozenset({401, 402, 403})
"""Statuses that every further request would get."""


def verify_url(
    service: Service,
    probes: Sequence[Probe],
    progress: Progress = lambda what, done, total: None,
) -> Report:
    """Everything the probes can tell about a server. What the budget does not allow, or is
    interrupted, stands in the report as skipped.

    Raises RequestError if the server does not answer a greeting, or refuses the key later on.
    """
    report = Report(f"{service.client.url} ({service.model})")
    service.meet()
    report.facts |= {
        "model": service.model,
        "context": f"{service.context:,} tokens" if service.context else "not told",
        "vocabulary": "known: prompts are counted with it" if service.tokenizer else "not known",
        "log-probabilities": "offered" if service.logprobs else "not offered",
        "thinking": "asked for by " + ", ".join(service.plain) if service.plain else "no switch",
    }
    for number, probe in enumerate(probes):
        progress(probe.name, number, len(probes))
        _run(report, service, probe)
    progress("done", len(probes), len(probes))
    budget = service.budget
    report.facts["took"] = (
        f"{budget.requests} requests, {budget.prompt:,} prompt tokens ({budget.cached:,} cached), "
        f"{budget.answer:,} answer tokens"
    )
    return report


def _run(report: Report, service: Service, probe: Probe) -> None:
    service.probe = probe.name
    begin, measured = time.perf_counter(), []
    try:
        for told in probe.run(service):
            if isinstance(told, Measured):
                measured.append(told.what)
            elif isinstance(told, Skipped):
                report.skipped.append(told)
            else:
                report.findings.append(told)
    except Spent as reason:
        report.skipped.append(
            Skipped(f"{probe.name}: " + ("the rest" if measured else "all"), str(reason))
        )
    except KeyboardInterrupt:
        report.skipped.append(Skipped(f"{probe.name}: what was under way", "interrupted"))
    except RequestError as error:
        if error.status in REFUSED:
            raise
        what = "no answer" if error.code == NO_ANSWER else "an answer that is none"
        report.findings.append(
            Finding(
                f"{what}: {error}", probe.name, hint="the probe ends here; see the server's log"
            )
        )
    if measured:
        report.checks.append(Check(probe.name, "\n".join(measured), time.perf_counter() - begin))
