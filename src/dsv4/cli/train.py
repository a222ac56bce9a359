"""`dsv4 train`: pre-training from a recipe or from text files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from dsv4.cli.console import Done
    from dsv4.training.config import Precision, TrainConfig

SHOW_SECONDS = 10.0
"""At least this long between two lines of progress."""

ANSWERS = {"thinking": False, "temperature": 0.7, "top_p": 0.95, "max_new_tokens": 400}
"""How a trained model answers by default: documents are written without thinking (see
data/documents.py), and a small model rambles at temperature 1."""


def train(
    out: Annotated[
        Path, typer.Argument(help="Run folder; an interrupted run in it goes on.", metavar="OUT")
    ],
    corpora: Annotated[Path, typer.Option(help="Folder that holds the text files.")],
    recipe: Annotated[
        Path | None,
        typer.Option(help="Python file with config(corpora, out) -> TrainConfig; runs as code."),
    ] = None,
    files: Annotated[
        list[str] | None,
        typer.Option(help="Without a recipe: glob of .jsonl(.xz) files below --corpora; repeat."),
    ] = None,
    preset: Annotated[str, typer.Option(help="Without a recipe: the architecture.")] = "nano",
    steps: Annotated[int, typer.Option(help="Without a recipe: optimizer steps.", min=1)] = 1000,
    rate: Annotated[float, typer.Option(help="Without a recipe: peak learning rate.")] = 1e-3,
    batch_tokens: Annotated[
        int, typer.Option(help="Without a recipe: tokens per step.", min=1)
    ] = 8192,
    max_length: Annotated[int, typer.Option(help="Without a recipe: longest row.", min=2)] = 512,
    tokenizer: Annotated[
        Path | None, typer.Option(help="Without a recipe: a tokenizer.json; else one is trained.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Without a recipe: seed of weights and order.")] = 0,
    precision: Annotated[
        str | None,
        typer.Option(help="float32, or bfloat16 where the processor multiplies it natively."),
    ] = None,
    max_minutes: Annotated[
        float | None, typer.Option(help="Save and stop after this long.", min=0)
    ] = None,
) -> None:
    """Train a model from a text corpus.

    Checkpoints and metrics.jsonl go to OUT; Ctrl-C saves and stops, the same command goes on.
    A finished run leaves the model in OUT/model, in the released layout, with its loss curve.
    """
    from dsv4.errors import UsageError

    if recipe is None and not files:
        raise UsageError("there is nothing to train on", "give --files or --recipe")
    if recipe is not None and files:
        raise UsageError("--recipe and --files exclude each other", "drop one of them")
    if recipe is not None and not recipe.is_file():
        raise UsageError(f"no recipe at {recipe}", "recipes are Python files, see recipes/")

    import dataclasses
    import shutil

    from dsv4 import checkpoint
    from dsv4.chat import defaults
    from dsv4.cli.console import note, progress
    from dsv4.data.corpora import Source
    from dsv4.training.config import TrainConfig
    from dsv4.training.pretrain import train as pretrain
    from dsv4.training.schedule import Schedule

    if recipe is not None:
        config = _from_recipe(recipe, corpora, out)
    else:
        sources = tuple(
            Source(f"source-{i}", pattern, 1.0, "not stated")
            for i, pattern in enumerate(files or ())
        )
        config = TrainConfig(
            model=_architecture(preset),
            sources=sources,
            corpora=corpora,
            out=out,
            schedule=Schedule(steps=steps, lr=rate, warmup=min(20, steps)),
            tokenizer=tokenizer,
            batch_tokens=batch_tokens,
            max_length=max_length,
            seed=seed,
        )
    if max_minutes is not None:
        config = dataclasses.replace(config, max_minutes=max_minutes)
    if precision is not None:
        config = dataclasses.replace(config, precision=_precision(precision))

    with progress("training", config.schedule.steps) as bar:
        show = _Progress(config.schedule.steps, bar)
        trained = pretrain(config, report=show.record, status=note)
    if not trained.finished:
        note(f"stopped after step {trained.step} of {config.schedule.steps}; run again to go on")
        return
    folder = out / "model"
    checkpoint.export_released(trained.model, folder, overwrite=True)
    shutil.copyfile(out / "tokenizer.json", folder / "tokenizer.json")
    defaults.write_defaults(folder, ANSWERS)
    _draw(out / "metrics.jsonl", folder / "loss.png")
    note(f"{folder}: the trained model")


def _precision(name: str) -> Precision:
    from typing import cast, get_args

    from dsv4.errors import UsageError
    from dsv4.training.config import Precision

    if name not in get_args(Precision):
        raise UsageError(
            f"--precision {name} is unknown", f"one of {', '.join(get_args(Precision))}"
        )
    return cast("Precision", name)


def _draw(metrics: Path, image: Path) -> None:
    """The loss curve, if matplotlib is there; a finished run does not fail for a picture."""
    from dsv4.cli.console import note
    from dsv4.errors import UsageError
    from dsv4.training.plot import plot_losses

    try:
        plot_losses(metrics, image, f"{metrics.parent.name}: pre-training loss")
    except UsageError as error:
        note(f"no loss curve: {error} ({error.hint})")


def _architecture(preset: str) -> Any:
    from dsv4 import config, presets

    if preset not in presets.PRESETS and Path(preset).exists():
        return config.load(preset)
    return presets.preset(preset)


def _from_recipe(path: Path, corpora: Path, out: Path) -> TrainConfig:
    """What the recipe's `config` function returns. Raises UsageError if there is none."""
    import runpy

    from dsv4.errors import UsageError
    from dsv4.training.config import TrainConfig

    make = runpy.run_path(str(path)).get("config")
    if not callable(make):
        raise UsageError(f"{path} has no function `config`", "config(corpora, out) -> TrainConfig")
    made = make(corpora, out)
    if not isinstance(made, TrainConfig):
        raise UsageError(f"config() of {path} returned a {type(made).__name__}", "a TrainConfig")
    return made


class _Progress:
    """Moves the bar, and writes a line now and then."""

    def __init__(self, steps: int, bar: Done) -> None:
        self._steps, self._bar = steps, bar
        self._shown = 0.0

    def record(self, record: dict[str, Any]) -> None:
        import time

        from dsv4.cli.console import note

        step = int(record["step"])
        self._bar(step)
        now = time.monotonic()
        if now - self._shown < SHOW_SECONDS and "validation_loss" not in record:
            return
        self._shown = now
        left = (self._steps - step) * float(record["seconds"])
        line = (
            f"step {step}/{self._steps}  loss {record['loss']:.3f}  "
            f"{record['tokens_per_second']:.0f} tokens/s  {left / 60:.0f} min left"
        )
        if "validation_loss" in record:
            line += f"  validation {record['validation_loss']:.3f}"
        note(line)
