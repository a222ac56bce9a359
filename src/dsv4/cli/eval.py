"""`dsv4 eval`: how good a model is, measured on held-out data and on public benchmarks."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dsv4.cli.money import LimitCost, MorePrices, limit_of, price_table
from dsv4.cli.options import JsonOption, KeyFileOption, NumericsOption, ServedOption, ThreadsOption
from dsv4.errors import UsageError

if TYPE_CHECKING:
    from dsv4.evaluation.benchmark import Benchmark, Settings
    from dsv4.evaluation.endpoint import Endpoint
    from dsv4.evaluation.local import LocalModel
    from dsv4.evaluation.report import Report
    from dsv4.evaluation.spending import Estimate, Spending
    from dsv4.pricing.price import PricedModel
    from dsv4.tasks.problem import Effort


def eval(
    model: Annotated[
        str,
        typer.Argument(help="nano (bundled), a folder, a hub id, or a URL.", metavar="MODEL"),
    ],
    data: Annotated[
        Path | None, typer.Option(help="Folder with held-out texts, or whole public sets.")
    ] = None,
    corpora: Annotated[
        Path | None, typer.Option(help="Training corpora: for baselines, held-out dialogues.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for answers and results; eval/MODEL unless given.")
    ] = None,
    only: Annotated[
        str,
        typer.Option(
            help="Benchmarks to run, with commas; 'own' or 'standard' is all of those. Own unless "
            "given.",
            metavar="NAMES",
        ),
    ] = "",
    limit: Annotated[int | None, typer.Option(help="Items per group.", min=1, metavar="N")] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Few items, contexts up to 2,048 tokens.")
    ] = False,
    effort: Annotated[
        str,
        typer.Option(help="Standard: off, high, max, or several with commas.", metavar="EFFORTS"),
    ] = "off",
    temperature: Annotated[
        float, typer.Option(help="Standard: 0 is greedy; DeepSeek's own is 1.", min=0, max=2)
    ] = 0.0,
    answer_tokens: Annotated[
        int | None,
        typer.Option(help="Standard: of an answer, reasoning included.", min=1, metavar="N"),
    ] = None,
    lengths: Annotated[
        str,
        typer.Option(help="Retrieval: tokens of the contexts, with commas.", metavar="LENGTHS"),
    ] = "",
    card: Annotated[
        Path | None, typer.Option(help="Model card whose marked section is written anew.")
    ] = None,
    stage: Annotated[
        list[str] | None,
        typer.Option(help="Results of an earlier stage, for the card.", metavar="LABEL=FOLDER"),
    ] = None,
    served: ServedOption = None,
    key_file: KeyFileOption = None,
    together: Annotated[
        int, typer.Option(help="URL: requests at a time.", min=1, max=1024, metavar="N")
    ] = 8,
    plain: Annotated[
        bool, typer.Option("--plain", help="URL: send only fields of OpenAI's own API.")
    ] = False,
    harness: Annotated[
        str,
        typer.Option(
            help="URL: tasks of Inspect, with commas (inspect_evals/gpqa_diamond, my_task.py), "
            "swe-bench, or terminal-bench, instead of our benchmarks.",
            metavar="NAMES",
        ),
    ] = "",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="URL: show what it will take, and ask nothing.")
    ] = False,
    limit_cost: LimitCost = None,
    price: Annotated[
        str | None,
        typer.Option(
            help="URL: the model as whose price tokens are charged; --served unless given.",
            metavar="NAME",
        ),
    ] = None,
    prices: MorePrices = None,
    numerics: NumericsOption = "fast",
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure how good a model is, on data it was not trained on.

    Our own benchmarks: text, text-bigram, text-5gram, blimp, arithmetic, tools, taskmaster,
    infill, tasks, needle, recall, newcomer, stories. Standard ones: mmlu, hellaswag, gsm8k, bbh,
    humaneval, mbpp, livecodebench, bfcl, multikey, variables; parts of their sets come with the
    package, programs run in a sandbox, and the results stand beside DeepSeek's published numbers.

    MODEL may be the URL of any server with OpenAI's API:

    dsv4 eval http://127.0.0.1:8000/v1 --served NAME --only standard --dry-run

    Every answer is kept in --out as it comes: the same command goes on where it was interrupted,
    pays for no answer twice, and a larger --limit asks only for the rest. What it will cost is
    shown before it starts. Ctrl-C waits for the answers under way; a second one stops at once.

    Generation is greedy, or drawn with fixed seeds, so that the same command gives the same
    numbers. Benchmarks whose folder is not given are left out, unless --only names them: that is an
    error. docs/eval.md says what is measured.
    """
    from dsv4.cli.console import write_json
    from dsv4.evaluation import report as reports
    from dsv4.evaluation.benchmark import Settings
    from dsv4.evaluation.benchmarks.catalogue import chosen
    from dsv4.evaluation.local import LocalModel

    if harness and (only or data or corpora or quick or lengths):
        raise UsageError(
            "--harness runs other people's benchmarks",
            "leave out --only, --data, --corpora, --quick and --lengths",
        )
    for option, given in (("--data", data), ("--corpora", corpora)):
        if given is not None and not given.is_dir():
            raise UsageError(f"{option} {given}: there is no such folder", "check its path")
    benchmarks = chosen(_listed(only))
    stages = _stages(stage or [])
    settings = Settings(
        data, corpora, limit, quick, _efforts(effort), temperature, answer_tokens, _lengths(lengths)
    )
    if card is not None:
        reports.card_around(card)  # a card without a place for results is told now
    hosted = model.startswith(("http://", "https://"))
    if not hosted and (harness or dry_run or limit_cost or price or prices or plain):
        raise UsageError(
            "--harness, --dry-run, --limit-cost, --price, --prices and --plain are for a URL",
            f"dsv4 serve {model} gives it one",
        )
    if hosted and served is None:
        raise UsageError("a URL may serve many models", "name one with --served")
    charged = _price(price, served, prices) if hosted else None
    spending_limit = limit_of(limit_cost)
    if harness:
        from dsv4.cli.eval_harness import run_harness

        assert served is not None
        made = run_harness(
            tuple(_listed(harness)), model, served, key_file, out, settings, together, plain,
            charged, spending_limit, dry_run,
        )  # fmt: skip
    else:
        runnable = _runnable(benchmarks, _listed(only), settings, likelihoods=not hosted)
        target = _target(model, served, key_file, numerics, threads, together, plain, settings)
        about = _about(model, target)
        folder = out or _folder(about["model"])
        try:
            with _spending(target, charged, spending_limit) as spending:
                if hosted:
                    before = _estimates(runnable, target, folder, spending)
                    _tell(before, spending, as_json and dry_run)
                    if dry_run:
                        return
                made = _run(runnable, target, folder, spending, about)
        finally:
            if isinstance(target, LocalModel):
                target.close()
    if made is None:
        return
    if not any(result.items for result in made.results.values()):
        raise UsageError(
            "nothing was asked, and --out has no results of this model",
            "ask for other benchmarks or --lengths",
        )
    if card is not None:
        reports.write_card(card, reports.markdown(made, stages))
    if as_json:
        write_json(made.json())
    else:
        print(reports.markdown(made, stages), end="")


def _runnable(
    benchmarks: Sequence[Benchmark], named: Sequence[str], settings: Settings, likelihoods: bool
) -> list[tuple[Benchmark, Settings]]:
    """Those whose folders are given, with the settings they are asked with; the others are told.

    Raises UsageError if one of the others was asked for by its name.
    """
    from dsv4.cli.console import note

    missing = {b.name: lack for b in benchmarks if (lack := b.missing(settings, likelihoods))}
    refused = [f"{name} needs {lack}" for name, lack in missing.items() if name in named]
    if refused:
        raise UsageError("; ".join(refused), "give that, or leave it out of --only")
    for name, lack in missing.items():
        note(f"{name}: left out, needs {lack}")
    return [(b, _settings_of(b, settings)) for b in benchmarks if b.name not in missing]


def _settings_of(benchmark: Benchmark, settings: Settings) -> Settings:
    """The settings of one benchmark: --data is not among them if the folder has nothing of its
    public set, so that the report does not claim it. What is asked instead is told."""
    from dsv4.cli.console import note
    from dsv4.evaluation.standard.records import bundled, files

    data = settings.data
    if data is None:
        return settings
    names = bundled(benchmark.name)
    absent = [name for name in names if not files(data, name)]
    if not absent:
        return settings
    listed = ", ".join(f"{name}.jsonl" for name in absent)
    note(f"{benchmark.name}: {listed} not in {data}, the bundled ones are asked")
    return replace(settings, data=None) if absent == names else settings


def _estimates(
    benchmarks: Sequence[tuple[Benchmark, Settings]],
    target: LocalModel | Endpoint,
    folder: Path,
    spending: Spending,
) -> dict[str, Estimate]:
    from dsv4.cli.console import status
    from dsv4.evaluation.benchmark import estimate

    with status("estimating"):
        return {
            benchmark.name: estimate(benchmark, target, settings, folder, spending)
            for benchmark, settings in benchmarks
        }


def _tell(estimates: dict[str, Estimate], spending: Spending, as_json: bool) -> None:
    """What it will take, one line a benchmark and one for all."""
    from dsv4.cli.console import note, write_json
    from dsv4.evaluation.spending import total

    together = total(list(estimates.values()), spending)
    if as_json:
        each = {name: estimate.json() for name, estimate in estimates.items()}
        write_json({"benchmarks": each, "all": together.json(), "paid": str(spending.paid)})
        return
    for name, estimate in estimates.items():
        note(f"{name}: {estimate}")
    note(f"all: {together}")


def _run(
    benchmarks: Sequence[tuple[Benchmark, Settings]],
    target: LocalModel | Endpoint,
    folder: Path,
    spending: Spending,
    about: dict[str, Any],
) -> Report:
    from dsv4.cli.console import note, progress
    from dsv4.evaluation import report as reports
    from dsv4.evaluation.benchmark import run
    from dsv4.pricing.price import money

    report = reports.merged(folder, about, ())
    for benchmark, settings in benchmarks:
        with progress(benchmark.name) as done:
            result = run(benchmark, target, settings, folder, done, spending)
        if not result.items:
            note(f"{benchmark.name}: left out, has nothing to ask with these options")
            continue
        report = reports.merged(folder, report.about, [result])
        report.save(folder)
        cost = "" if result.cost is None else f", {money(spending.paid)} so far"
        note(f"{benchmark.name}: {result.items} items, {result.seconds:.0f} s{cost}")
    return report


@contextmanager
def _spending(
    target: LocalModel | Endpoint, price: PricedModel | None, limit: Any
) -> Iterator[Spending]:
    """The money of this run. With an endpoint, Ctrl-C waits for what is under way."""
    from dsv4.cli.console import interruptible
    from dsv4.evaluation.local import LocalModel
    from dsv4.evaluation.spending import Spending

    if isinstance(target, LocalModel):
        yield Spending()
        return
    with interruptible() as stopped:
        yield Spending(price, limit, stopped)


def _price(name: str | None, served: str | None, more: Path | None) -> PricedModel | None:
    """Whose price is charged: nobody's, if none is named and the model has none."""
    table = price_table(more)
    if name is not None:
        return table.find(name)
    return table.find(served) if served is not None and served in table else None


def _listed(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _efforts(text: str) -> tuple[Effort, ...]:
    from dsv4.tasks.problem import EFFORTS

    found = tuple(effort for effort in EFFORTS if effort in _listed(text))
    if not found or len(found) != len(_listed(text)):
        raise UsageError(f"--effort {text!r}", "some of " + ", ".join(EFFORTS))
    return found


def _lengths(text: str) -> tuple[int, ...]:
    try:
        found = tuple(sorted({int(length) for length in _listed(text)}))
    except ValueError:
        found = (0,)
    if found and found[0] < 128:
        raise UsageError(f"--lengths {text!r}", "tokens, 128 or more, such as 4096,131072")
    return found


def _folder(name: str) -> Path:
    return Path("eval") / name.replace("/", "_")


def _target(
    model: str,
    served: str | None,
    key_file: Path | None,
    numerics: str,
    threads: int | None,
    together: int,
    plain: bool,
    settings: Settings,
) -> LocalModel | Endpoint:
    from dsv4.cli.loading import load, read_key
    from dsv4.evaluation.endpoint import CONTEXT, Endpoint
    from dsv4.evaluation.local import LocalModel

    if served is None:
        return LocalModel(load(model, numerics, threads))
    context = max(CONTEXT, *(length + 4096 for length in settings.lengths), 0)
    return Endpoint(
        model, served, key=read_key(key_file), context=context, together=together, plain=plain
    )


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
        "model": _name(target),
        "command": f"dsv4 eval {shlex.quote(model)}{chosen}",
        "numerics": numerics,
        "machine": describe(),
    }


def _name(target: LocalModel) -> str:
    """Training leaves every model in RUN/model, so those are called RUN-model."""
    run = target.model.folder.resolve().parent.name
    return f"{run}-model" if run and target.name == "model" else target.name


def _stages(given: list[str]) -> dict[str, Report]:
    from dsv4.evaluation.report import read

    stages = {}
    for text in given:
        label, equals, folder = text.partition("=")
        if not equals:
            raise UsageError(f"--stage {text}", "LABEL=FOLDER, such as pretrained=eval/step-4000")
        stages[label] = read(Path(folder))
    return stages
