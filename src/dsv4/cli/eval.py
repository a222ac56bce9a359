"""`dsv4 eval`: how good a model is, measured on held-out data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dsv4.cli.options import JsonOption, NumericsOption, ThreadsOption

if TYPE_CHECKING:
    from dsv4.evaluation.endpoint import Endpoint
    from dsv4.evaluation.local import LocalModel
    from dsv4.evaluation.report import Report


def eval(
    model: Annotated[
        str,
        typer.Argument(help="nano (bundled), a folder, a hub id, or a URL.", metavar="MODEL"),
    ],
    data: Annotated[
        Path | None, typer.Option(help="Folder with heldout_*.jsonl.xz and blimp.jsonl.xz.")
    ] = None,
    corpora: Annotated[
        Path | None, typer.Option(help="Training corpora: for baselines, held-out dialogues.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for answers and results; eval/MODEL unless given.")
    ] = None,
    only: Annotated[
        str, typer.Option(help="Benchmarks to run, with commas; all unless given.", metavar="NAMES")
    ] = "",
    limit: Annotated[int | None, typer.Option(help="Items per group.", min=1, metavar="N")] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Few items, contexts up to 2,048 tokens.")
    ] = False,
    card: Annotated[
        Path | None, typer.Option(help="Model card whose marked section is written anew.")
    ] = None,
    stage: Annotated[
        list[str] | None,
        typer.Option(help="Results of an earlier stage, for the card.", metavar="LABEL=FOLDER"),
    ] = None,
    served: Annotated[
        str | None, typer.Option(help="URL: the model to ask for.", metavar="NAME")
    ] = None,
    key_file: Annotated[
        Path | None, typer.Option(help="URL: a file that holds the API key.", metavar="FILE")
    ] = None,
    numerics: NumericsOption = "fast",
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure how good a model is, on data it was not trained on.

    Every answer is kept in --out as it comes: an interrupted run goes on where it was, and a
    larger --limit asks only for the rest. Generation is greedy, or drawn with fixed seeds, so
    that the same command gives the same numbers. Benchmarks whose folder is not given are left
    out. docs/eval.md says what is measured.

    MODEL may be the URL of any server with OpenAI's API, such as http://127.0.0.1:8000/v1.
    """
    from dsv4.cli.console import note, progress, write_json
    from dsv4.evaluation import report as reports
    from dsv4.evaluation.benchmark import Settings, run
    from dsv4.evaluation.benchmarks.catalogue import chosen
    from dsv4.evaluation.local import LocalModel

    benchmarks = chosen([name.strip() for name in only.split(",") if name.strip()])
    stages = _stages(stage or [])
    if card is not None:
        reports.card_around(card)  # a card without a place for results is told now
    settings = Settings(data, corpora, limit, quick)
    target = _target(model, served, key_file, numerics, threads)
    folder = out or Path("eval") / target.name.replace("/", "_")
    report = reports.merged(folder, _about(model, target), ())
    try:
        for benchmark in benchmarks:
            missing = benchmark.missing(settings, target)
            if missing:
                note(f"{benchmark.name}: left out, needs {missing}")
                continue
            with progress(benchmark.name) as done:
                result = run(benchmark, target, settings, folder, done)
            report = reports.merged(folder, report.about, [result])
            report.save(folder)
            note(f"{benchmark.name}: {result.items} items, {result.seconds:.0f} s")
    finally:
        if isinstance(target, LocalModel):
            target.close()
    if card is not None:
        reports.write_card(card, reports.markdown(report, stages))
    if as_json:
        write_json(report.json())
    else:
        print(reports.markdown(report, stages), end="")


def _target(
    model: str, served: str | None, key_file: Path | None, numerics: str, threads: int | None
) -> LocalModel | Endpoint:
    from dsv4.cli.loading import load, read_key
    from dsv4.errors import UsageError
    from dsv4.evaluation.endpoint import Endpoint
    from dsv4.evaluation.local import LocalModel

    if not model.startswith(("http://", "https://")):
        return LocalModel(load(model, numerics, threads))
    if served is None:
        raise UsageError("a URL may serve many models", "name one with --served")
    return Endpoint(model, served, key=read_key(key_file))


def _about(model: str, target: LocalModel | Endpoint) -> dict[str, Any]:
    """What every report says of its target; `command` asks the same one again."""
    from dsv4.evaluation.local import LocalModel
    from dsv4.evaluation.machine import describe
    from dsv4.version import __version__

    about = {"model": target.name, "fingerprint": target.fingerprint, "version": __version__}
    if not isinstance(target, LocalModel):
        return about | {"command": f"dsv4 eval {model} --served {target.name}"}
    numerics = target.model.numerics
    chosen = "" if numerics == "fast" else f" --numerics {numerics}"
    return about | {
        "command": f"dsv4 eval {target.name}{chosen}",
        "numerics": numerics,
        "machine": describe(),
    }


def _stages(given: list[str]) -> dict[str, Report]:
    from dsv4.errors import UsageError
    from dsv4.evaluation.report import read

    stages = {}
    for text in given:
        label, equals, folder = text.partition("=")
        if not equals:
            raise UsageError(f"--stage {text}", "LABEL=FOLDER, such as pretrained=eval/step-4000")
        stages[label] = read(Path(folder))
    return stages
