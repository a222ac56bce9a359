"""`dsv4 verify`: is this deployment right, and if not, where does it go wrong?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dsv4.cli.options import JsonOption, ThreadsOption

if TYPE_CHECKING:
    from dsv4.evaluation.conformance.finding import Finding, Report


SMALL = 200 << 20
"""Bytes of weights below which one thread is faster: see `cli.loading`."""

MINUTES, MAX_TOKENS = 4.5, 200_000
"""What probes may take, unless somebody says otherwise; what is under way then comes on top."""


def verify(
    model: Annotated[
        str,
        typer.Argument(help="nano (bundled), a model folder, a hub id, or a URL.", metavar="MODEL"),
    ],
    headers_only: Annotated[
        bool, typer.Option("--headers-only", help="Configuration, headers and tokenizer alone.")
    ] = False,
    layers: Annotated[
        int | None, typer.Option(help="Read and compute the first N layers only.", min=1)
    ] = None,
    length: Annotated[
        int | None,
        typer.Option(
            help="Tokens of the prompt; past the first dropped entry if not given.", min=2
        ),
    ] = None,
    threads: ThreadsOption = None,
    served: Annotated[
        str | None, typer.Option(help="URL: the model to ask for.", metavar="NAME")
    ] = None,
    key_file: Annotated[
        Path | None, typer.Option(help="URL: a file that holds the API key.", metavar="FILE")
    ] = None,
    tokenizer: Annotated[
        str | None,
        typer.Option(
            help="URL: the folder with this model's vocabulary, to compare prompts with; known "
            "for bundled models.",
            metavar="MODEL",
        ),
    ] = None,
    only: Annotated[
        str,
        typer.Option(help="URL: probes to run, with commas; all unless given.", metavar="NAMES"),
    ] = "",
    minutes: Annotated[
        float, typer.Option(help="URL: time to spend.", min=0.1, metavar="N")
    ] = MINUTES,
    max_tokens: Annotated[
        int,
        typer.Option(
            help="URL: tokens to spend, prompts and answers together.", min=1000, metavar="N"
        ),
    ] = MAX_TOKENS,
    speculation_off: Annotated[
        str | None,
        typer.Option(
            help="URL: how to ask without speculative decoding: fields of a request as JSON, or "
            "the URL of the same model served without.",
            metavar="JSON|URL",
        ),
    ] = None,
    price: Annotated[
        str | None,
        typer.Option(help="URL: the model as whose price tokens are charged.", metavar="NAME"),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="URL: say what it may cost, and ask nothing.")
    ] = False,
    as_json: JsonOption = False,
    html: Annotated[
        Path | None, typer.Option(help="Also write the report as one page.", metavar="FILE")
    ] = None,
) -> None:
    """Find out whether a checkpoint is right and this machine computes it right.

    First the configuration, the headers and the tokenizer; then every stored number: NaN, dead
    tensors, odd scales, routing tables; then every layer, part by part: official and fast
    against exact, all fed with the same inputs. One layer is in memory at a time.

    Of a URL, such as http://127.0.0.1:8000, a server with OpenAI's API is asked: answers that have
    to be equal are compared (cold and cached, alone and together, whole and streamed), and lengths
    of prompts with lengths next to them. What it may cost is shown before it starts; Ctrl-C ends
    it with a report of what is known by then.

    Exit code 1 if something is wrong. A difference is traced to the first layer and part that
    has it and compared with the known failures of V4 implementations.
    """
    from dsv4.cli.console import write_json
    from dsv4.errors import UsageError
    from dsv4.evaluation.conformance.page import page

    of_url = {
        "--served": served,
        "--key-file": key_file,
        "--tokenizer": tokenizer,
        "--only": only,
        "--speculation-off": speculation_off,
        "--price": price,
        "--dry-run": dry_run,
    }
    of_folder = {"--headers-only": headers_only, "--layers": layers, "--length": length}
    is_url = model.startswith(("http://", "https://"))
    for option, value in (of_folder if is_url else of_url).items():
        if value:
            raise UsageError(f"{option} is for {'a folder' if is_url else 'a URL'}")
    if is_url:
        from dsv4.cli.probe import Plan, probe

        plan = Plan(
            model, served, key_file, tokenizer, only, minutes, max_tokens, speculation_off, price
        )
        found = probe(plan, dry_run=dry_run)
        if found is None:
            return
        report = found
    else:
        report = _folder(model, headers_only, layers, length, threads)
    if html is not None:
        html.write_text(page(report), encoding="utf-8")
    if as_json:
        write_json(report.as_json())
    else:
        _show(report)
    if not report.passed:
        raise typer.Exit(1)


def _folder(
    model: str, headers_only: bool, layers: int | None, length: int | None, threads: int | None
) -> Report:
    from dsv4 import locate
    from dsv4.cli.console import progress
    from dsv4.evaluation.conformance.verify import Options, verify_folder
    from dsv4.ops.cpu import threads as pool

    folder = locate.folder(model)
    import torch

    stored = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    torch.set_num_threads(pool.use(1 if threads is None and stored < SMALL else threads))
    with progress("verify") as done:
        return verify_folder(
            folder,
            Options(headers_only, layers, length),
            progress=lambda what, part, total: done(part, total),
        )


def _show(report: Report) -> None:
    from dsv4.cli.console import output, table
    from dsv4.evaluation.conformance.summary import summarize

    out = output()
    out.print(report.subject, markup=False)
    for name, value in report.facts.items():
        out.print(f"  {name}: {value}", markup=False)
    for check in report.checks:
        what = check.what.replace("\n", "\n  ")
        out.print(f"{check.name}: {what} ({check.seconds:.1f} s)", markup=False, soft_wrap=True)
    if report.comparisons:
        shown = table("", "variant", "from", "part", "at", "relative", "allowed", "beyond", left=4)
        for row in summarize(report.comparisons):
            worst = row.worst
            bound = "" if worst.allowed is None else f"{worst.allowed:.1e}"
            shown.add_row(
                worst.variant,
                worst.against,
                worst.part,
                worst.layer,
                f"{worst.relative:.1e}",
                bound,
                f"{row.failed} of {row.layers}",
            )
        out.print(shown)
    for finding in report.findings:
        out.print(_sentence(finding), markup=False, soft_wrap=True)
    for skipped in report.skipped:
        out.print(f"skipped: {skipped.name}: {skipped.why}", markup=False, soft_wrap=True)
    errors, warnings = report.count("error"), report.count("warning")
    verdict = "passed" if report.passed else "failed"
    out.print(f"{verdict}: {errors} errors, {warnings} warnings", markup=False)


def _sentence(finding: Finding) -> str:
    sure = "" if finding.sure == "certain" else f" ({finding.sure})"
    text = f"{finding.severity}{sure}: {finding.where}: {finding.what}"
    if finding.resembles:
        text += f"\n  resembles: {finding.resembles}"
    if finding.hint:
        text += f"\n  hint: {finding.hint}"
    return text
