"""`dsv4 verify`: is this deployment right, and if not, where does it go wrong?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dsv4.cli.options import JsonOption, KeyFileOption, ServedOption, ThreadsOption

if TYPE_CHECKING:
    from rich.table import Table

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
    make_pack: Annotated[
        Path | None,
        typer.Option(help="Write a golden pack: inputs and outputs of parts.", metavar="DIR"),
    ] = None,
    pack: Annotated[
        Path | None, typer.Option(help="Compare with a golden pack instead.", metavar="DIR")
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(
            help="Compare the predictions of transformers, of a file or of a URL instead.",
            metavar="OTHER",
        ),
    ] = None,
    threads: ThreadsOption = None,
    served: ServedOption = None,
    key_file: KeyFileOption = None,
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
        float | None,
        typer.Option(help=f"URL: time to spend, {MINUTES} unless given.", min=0.1, metavar="N"),
    ] = None,
    max_tokens: Annotated[
        int | None,
        typer.Option(
            help=f"URL: tokens to spend, prompts and answers; {MAX_TOKENS:,} unless given.",
            min=1000,
            metavar="N",
        ),
    ] = None,
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

    A golden pack holds what other engines need to test theirs. --against says whether another
    implementation predicts what this one does, and which failure explains it if not:
    docs/verify.md.
    """
    from dsv4.cli.console import write_json
    from dsv4.errors import UsageError
    from dsv4.evaluation.conformance.page import page

    of_url: dict[str, object] = {
        "--tokenizer": tokenizer,
        "--only": only,
        "--minutes": minutes,
        "--max-tokens": max_tokens,
        "--speculation-off": speculation_off,
        "--price": price,
        "--dry-run": dry_run,
    }
    if against is None:
        of_url |= {"--served": served, "--key-file": key_file}
    ways = {"--make-pack": make_pack, "--pack": pack, "--against": against}
    of_folder = {"--headers-only": headers_only, "--layers": layers, "--length": length, **ways}
    is_url = model.startswith(("http://", "https://"))
    for option, value in (of_folder if is_url else of_url).items():
        if value:
            raise UsageError(f"{option} is for {'a folder' if is_url else 'a URL'}")
    asked = [name for name, value in ways.items() if value is not None]
    if len(asked) > 1:
        raise UsageError(f"{' and '.join(asked)} do not go together", "one after the other")
    report: Report | None
    if is_url:
        from dsv4.cli.probe import Plan, probe

        plan = Plan(
            model,
            served,
            key_file,
            tokenizer,
            only,
            minutes or MINUTES,
            max_tokens or MAX_TOKENS,
            speculation_off,
            price,
        )
        report = probe(plan, dry_run=dry_run)
    else:
        folder, small = _opened(model, threads)
        if make_pack is not None:
            _make(folder, make_pack, layers, length)
            return
        if pack is not None:
            report = _checked(folder, pack)
        elif against is not None:
            report = _compared(folder, against, served, key_file, length, small)
        else:
            report = _verified(folder, headers_only, layers, length)
    if report is None:
        return
    if html is not None:
        html.write_text(page(report), encoding="utf-8")
    if as_json:
        write_json(report.as_json())
    else:
        _show(report)
    if not report.passed:
        raise typer.Exit(1)


def _opened(model: str, threads: int | None) -> tuple[Path, bool]:
    """The model's folder, and whether it is small. Sets how many threads compute."""
    import torch

    from dsv4 import locate
    from dsv4.ops.cpu import threads as pool

    folder = locate.folder(model)
    stored = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    small = stored < SMALL
    torch.set_num_threads(pool.use(1 if threads is None and small else threads))
    return folder, small


def _verified(folder: Path, headers_only: bool, layers: int | None, length: int | None) -> Report:
    from dsv4.cli.console import progress
    from dsv4.evaluation.conformance.verify import Options, verify_folder

    options = Options(headers_only, layers, length)
    with progress("verify") as done:
        return verify_folder(folder, options, progress=lambda what, part, total: done(part, total))


def _compared(
    folder: Path,
    against: str,
    served: str | None,
    key_file: Path | None,
    length: int | None,
    small: bool,
) -> Report:
    from dsv4.cli.console import progress
    from dsv4.cli.loading import read_key
    from dsv4.evaluation.conformance.against.comparing import Other, verify_against

    other = Other(against, served, read_key(key_file), length, small)
    with progress("verify") as done:
        return verify_against(folder, other, lambda what, part, total: done(part, total))


def _checked(folder: Path, pack: Path) -> Report:
    from dsv4.cli.console import progress
    from dsv4.evaluation.conformance.golden.checking import check_pack

    with progress("verify") as done:
        return check_pack(folder, pack, progress=done)


def _make(folder: Path, target: Path, layers: int | None, length: int | None) -> None:
    from dsv4.cli.console import note, progress
    from dsv4.evaluation.conformance.golden.making import make_pack
    from dsv4.evaluation.conformance.golden.pack import new, write

    new(target)  # what cannot be written is told before the model is walked through
    with progress("pack") as done:
        made = make_pack(folder, layers, length, done)
    size = write(made, target)
    layers_held = ", ".join(made.layers)
    note(f"{target}: {len(made.entries)} tensors of {layers_held}, {size / 1e6:.1f} MB")


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
    if report.drifts:
        out.print(_drifts(report))
    for finding in report.findings:
        out.print(_sentence(finding), markup=False, soft_wrap=True)
    for skipped in report.skipped:
        out.print(f"skipped: {skipped.name}: {skipped.why}", markup=False, soft_wrap=True)
    errors, warnings = report.count("error"), report.count("warning")
    verdict = "passed" if report.passed else "failed"
    out.print(f"{verdict}: {errors} errors, {warnings} warnings", markup=False)


def _drifts(report: Report) -> Table:
    from dsv4.cli.console import table

    shown = table(
        "", "from exact", "mean KL", "largest", "after", "logprob", "same top", "rank", left=1
    )
    for drift in report.drifts:
        row = drift.as_json()
        shown.add_row(
            row["of"],
            f"{row['divergence']:.1e}",
            f"{row['largest_divergence']:.1e}",
            f"{row['at'] + 1}",
            f"{row['logprob']:.1e}",
            f"{100 * row['top']:.1f} %",
            f"{100 * row['overlap']:.1f} %",
        )
    return shown


def _sentence(finding: Finding) -> str:
    sure = "" if finding.sure == "certain" else f" ({finding.sure})"
    text = f"{finding.severity}{sure}: {finding.where}: {finding.what}"
    if finding.resembles:
        text += f"\n  resembles: {finding.resembles}"
    if finding.hint:
        text += f"\n  hint: {finding.hint}"
    return text
