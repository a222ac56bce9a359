"""What the commands that train have in common: following a run, and ending it."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from dsv4.cli.console import note
from dsv4.cli.export import KEPT

if TYPE_CHECKING:
    from dsv4.training.config import RunConfig
    from dsv4.training.metrics import Report
    from dsv4.training.pretrain import Trained

C = TypeVar("C", bound="RunConfig")

PRECISIONS = ("float32", "float32-compiled", "bfloat16")
OPTIMIZERS = ("muon", "adamw")

BatchTokens = Annotated[
    int, typer.Option(help="Tokens of a micro-batch: rows times positions.", min=1)
]
Accumulate = Annotated[int, typer.Option(help="Micro-batches of an optimizer step.", min=1)]
Seed = Annotated[int, typer.Option(help="Seed of weights and order.", min=0, max=2**32 - 1)]
OptimizerName = Annotated[
    str, typer.Option(help="Who trains the matrices: muon, or adamw to compare.")
]
PrecisionName = Annotated[
    str | None,
    typer.Option(
        help="float32; float32-compiled: faster after some minutes of compiling (rl and distill "
        "compile on and on, for the lengths of their answers are always new); bfloat16: compiled "
        "too, where the processor multiplies it natively."
    ),
]
Device = Annotated[str | None, typer.Option(help="cpu, or cuda.")]
Recompute = Annotated[
    bool,
    typer.Option("--recompute", help="Compute layers again in the backward pass: less memory."),
]
CheckpointEvery = Annotated[int | None, typer.Option(help="Steps between checkpoints.", min=1)]
PieceMib = Annotated[
    int | None, typer.Option(help="Largest file of a checkpoint in MiB.", min=1, metavar="MIB")
]
MaxMinutes = Annotated[float | None, typer.Option(help="Save and stop after this long.", min=0)]

BESIDE_RECIPE = frozenset(
    "model out corpora recipe tokenizer_only precision device recompute checkpoint_every "
    "piece_mib max_minutes".split()
)
"""Arguments and options that a recipe leaves to the command."""

SHOW_SECONDS = 10.0
"""At least this long between two lines of progress where there is no terminal."""


def read_recipe(recipe: Path, corpora: Path, out: Path, kind: type[C]) -> C:
    """What the recipe's `config` function returns. Raises UsageError if it is no `kind`."""
    import runpy

    from dsv4.errors import UsageError

    if not recipe.is_file():
        raise UsageError(f"no recipe at {recipe}", "recipes are Python files, see recipes/")
    make = runpy.run_path(str(recipe)).get("config")
    wanted = f"config(corpora, out) -> {kind.__name__}"
    if not callable(make):
        raise UsageError(f"{recipe} has no function `config`", wanted)
    made = make(corpora, out)
    if not isinstance(made, kind):
        raise UsageError(f"config() of {recipe} returned a {type(made).__name__}", wanted)
    return made


def refuse_beside_recipe(context: typer.Context) -> None:
    """Raise UsageError for an option that was given although the recipe says it."""
    others = {*context.params} - BESIDE_RECIPE
    refuse(context, others, "is for runs without a recipe", "change it in the recipe")


def refuse(context: typer.Context, names: Collection[str], why: str, hint: str) -> None:
    """Raise UsageError if one of these options was given."""
    from dsv4.errors import UsageError

    for option in context.command.params:
        source = context.get_parameter_source(option.name or "")
        if option.name in names and source is not None and source.name == "COMMANDLINE":
            raise UsageError(f"{option.opts[0]} {why}", hint)


def with_options(
    config: C,
    precision: str | None,
    device: str | None,
    recompute: bool,
    checkpoint_every: int | None,
    piece_mib: int | None,
    max_minutes: float | None,
) -> C:
    """The settings with the options that were given in the place of theirs."""
    import re
    from dataclasses import replace

    from dsv4.errors import UsageError

    if device is not None:
        from dsv4.training.precision import check_device

        if not re.fullmatch(r"cpu|cuda(:\d+)?", device):
            raise UsageError(f"{device} is no device", "cpu, cuda, or cuda:1")
        check_device(device)
    given: dict[str, Any] = {
        "precision": None if precision is None else choice("--precision", precision, PRECISIONS),
        "device": device,
        "recompute": recompute or None,
        "checkpoint_every": checkpoint_every,
        "piece_bytes": None if piece_mib is None else piece_mib << 20,
        "max_minutes": max_minutes,
    }
    return replace(config, **{name: value for name, value in given.items() if value is not None})


def choice(option: str, value: str, values: tuple[str, ...]) -> str:
    """The value of an option, one of several. Raises UsageError with the others."""
    from dsv4.errors import UsageError

    if value not in values:
        raise UsageError(f"{option} {value} is unknown", f"one of {', '.join(values)}")
    return value


@contextmanager
def following(steps: int, *shown: str) -> Iterator[Report]:
    """A report that shows a run of `steps` steps: live on a terminal, in lines elsewhere.

    shown: names of metrics to show beside those that every run has.
    """
    from dsv4 import parallel

    if parallel.rank():
        yield lambda record: None
        return
    if not sys.stderr.isatty():
        yield _lines(steps, shown)
        return
    from rich.console import Console
    from rich.live import Live

    from dsv4.cli.live import LiveView

    view = LiveView(steps, shown)
    with Live(view, console=Console(stderr=True), refresh_per_second=4) as live:

        def report(record: dict[str, Any]) -> None:
            view.record(record)
            if "event" in record:
                live.console.print(_event(record), highlight=False, soft_wrap=True)

        yield report


def told_unfinished(trained: Trained, steps: int) -> bool:
    """Say how to go on with a run that is not finished. Exits with 130 if it was interrupted."""
    if not trained.finished:
        tell(f"stopped after step {trained.step} of {steps}; run again to go on")
    if trained.interrupted and not trained.finished:
        raise typer.Exit(130)
    return not trained.finished


def finish(trained: Trained, steps: int, folder: Path, origin: Path) -> None:
    """Write the model of a finished run to `folder`, with what belongs to it of the model folder
    `origin`; say how to go on with a run that is not finished, as `told_unfinished`."""
    import shutil

    from dsv4 import checkpoint, parallel

    if told_unfinished(trained, steps) or parallel.rank():
        return
    checkpoint.export_released(trained.model, folder, overwrite=True)
    for name in KEPT:
        if (origin / name).is_file():
            shutil.copyfile(origin / name, folder / name)
    note(f"{folder}: the trained model")


def tell(line: str) -> None:
    """A line about what is being prepared, from the first process."""
    from dsv4 import parallel

    if not parallel.rank():
        note(line)


def draw(metrics: Path, image: Path, title: str) -> None:
    """The curves of a run, if matplotlib is there: a finished run does not fail for a picture."""
    from dsv4.errors import UsageError
    from dsv4.training.plot import plot_run

    try:
        plot_run(metrics, image, title)
    except UsageError as error:
        note(f"no curves: {error} ({error.hint})")


def _lines(steps: int, shown: tuple[str, ...]) -> Callable[[dict[str, Any]], None]:
    """A report that writes a line now and then, and one for every validation and event."""
    from dsv4.cli.live import duration

    last = began = time.monotonic()
    first: int | None = None

    def report(record: dict[str, Any]) -> None:
        nonlocal last, first, began
        if "event" in record:
            note(_event(record))
            first, began = None, time.monotonic()  # back at an earlier step
            return
        step, now = int(record["step"]), time.monotonic()
        first = step - 1 if first is None else first
        validated = any(name.startswith("validation_") for name in record)
        if now - last < SHOW_SECONDS and not validated and step < steps:
            return
        last = now
        names = dict.fromkeys(
            ("loss", *shown, *(n for n in record if n.startswith("validation_"))), True
        )
        values = [f"{name} {record[name]:.4g}" for name in names if name in record]
        speed = f"{record['tokens_per_second']:.0f} tokens/s"
        left = duration((steps - step) * (now - began) / (step - first))
        note(f"step {step}/{steps}  {'  '.join(values)}  {speed}  {left} left")

    return report


def _event(record: dict[str, Any]) -> str:
    return (
        f"step {record['at']}: the loss went to {record['loss']}; going on from step "
        f"{record['step']} with routing by older weights"
    )
