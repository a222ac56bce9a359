"""`dsv4 eval URL --harness NAMES`: benchmarks of other harnesses, through a relay."""

from __future__ import annotations

import os
import subprocess
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dsv4.errors import RequestError

if TYPE_CHECKING:
    from dsv4.evaluation.benchmark import Settings
    from dsv4.evaluation.harness.plan import Plan
    from dsv4.evaluation.harness.relay import Relay
    from dsv4.evaluation.report import Report
    from dsv4.pricing.price import PricedModel

ERRORS = 2
"""The descriptor of standard error: standard output is for the results."""

UNKNOWN = "http://127.0.0.1:PORT/v1"
"""The relay's URL before there is one."""


def run_harness(
    names: tuple[str, ...],
    url: str,
    served: str,
    key_file: Path | None,
    out: Path | None,
    settings: Settings,
    together: int,
    plain: bool,
    price: PricedModel | None,
    limit: Decimal | None,
    dry_run: bool,
) -> Report | None:
    """The report with what was found; None if that is somewhere else, or nothing was run."""
    from dsv4.cli.console import interruptible, note
    from dsv4.cli.loading import read_key
    from dsv4.evaluation.client import Client
    from dsv4.evaluation.endpoint import Endpoint
    from dsv4.evaluation.harness.plan import SWE_BENCH, TERMINAL_BENCH, plan
    from dsv4.evaluation.harness.relay import Relay
    from dsv4.evaluation.spending import Spending

    folder = out or Path("eval") / served.replace("/", "_")
    kind = names[0] if names[0] in (SWE_BENCH, TERMINAL_BENCH) else "inspect"
    logs = folder / kind
    if dry_run:
        shown = plan(names, UNKNOWN, served, logs, together, settings.limit)
        _show(shown)
        return None
    plan(names, UNKNOWN, served, logs, together, settings.limit).check()
    client = Client(url, read_key(key_file))
    before = set(logs.glob("*.json"))
    records = folder / f"{kind}.requests.jsonl"
    with interruptible() as stopped:
        spending = Spending(price, limit, stopped)
        with Relay(client, served, records, spending, fields(settings, plain)) as relay:
            note(f"{relay.answers:,} answers are there from earlier runs{_cost(spending)}")
            real = plan(names, relay.url, served, logs, together, settings.limit)
            try:
                _carry_out(real)
            finally:
                note(_told(relay, spending))
        if stopped():
            raise KeyboardInterrupt
    if kind != "inspect":
        note(f"its results are in {real.results}")
        return None
    target = Endpoint(url, served)
    return _report(folder, sorted(set(logs.glob("*.json")) - before), url, target, names, settings)


def fields(settings: Settings, plain: bool) -> dict[str, Any]:
    """What every request gets that does not say so itself."""
    effort = settings.efforts[0]
    made: dict[str, Any] = {}
    if not plain:
        made["thinking"] = {"type": "disabled" if effort == "off" else "enabled"}
    if effort != "off":
        made["reasoning_effort"] = effort
    if settings.answer_tokens is not None:
        made["max_completion_tokens" if plain else "max_tokens"] = settings.answer_tokens
    return made | {"temperature": settings.temperature}


def _show(plan: Plan) -> None:
    from dsv4.cli.console import note

    for step in plan.steps:
        print(step)
        if step.missing():
            note(f"missing here: {', '.join(step.missing())}; {plan.hint}")


def _carry_out(plan: Plan) -> None:
    """Run the commands; what they print goes to standard error."""
    for step in plan.steps:
        done = subprocess.run(
            step.command, env={**os.environ, **step.env}, stdout=ERRORS, check=False
        )
        if done.returncode:
            raise RequestError(
                f"{plan.name} ended with exit code {done.returncode}: {step}",
                "run the same command again to go on; answers that came are kept",
                status=500,
            )


def _told(relay: Relay, spending: Any) -> str:
    tokens = relay.tokens
    return (
        f"{relay.sent:,} requests were sent, {relay.repeated:,} had an answer; in all "
        f"{relay.answers:,} answers, {tokens.hit + tokens.miss:,} prompt and {tokens.output:,} "
        f"answer tokens{_cost(spending)}"
    )


def _cost(spending: Any) -> str:
    from dsv4.pricing.price import money

    return "" if spending.price is None else f", {money(spending.paid)}"


def _report(
    folder: Path,
    logs: list[Path],
    url: str,
    target: Any,
    names: tuple[str, ...],
    settings: Settings,
) -> Report:
    from dsv4.evaluation import report as reports
    from dsv4.evaluation.harness.logs import read
    from dsv4.evaluation.standard.question import SHOWN
    from dsv4.version import __version__

    options = f"--harness {','.join(names)} {settings.options}".strip()
    results = list(read(logs, options, SHOWN[settings.efforts[0]]))
    about = {
        "model": target.name,
        "fingerprint": target.fingerprint,
        "version": __version__,
        "command": f"dsv4 eval {url} --served {target.name}",
    }
    made = reports.merged(folder, about, results)
    made.save(folder)
    return made
