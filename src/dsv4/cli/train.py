"""`dsv4 train`: pre-training from a recipe or from text files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from dsv4.cli.training import (
    OPTIMIZERS,
    Accumulate,
    BatchTokens,
    CheckpointEvery,
    Device,
    MaxMinutes,
    OptimizerName,
    PieceMib,
    PrecisionName,
    Recompute,
    Seed,
    choice,
    draw,
    finish,
    following,
    read_recipe,
    refuse_beside_recipe,
    tell,
    with_options,
)

if TYPE_CHECKING:
    from dsv4.config import ModelConfig
    from dsv4.training.config import TrainConfig

ANSWERS = {"thinking": False, "temperature": 0.7, "top_p": 0.95, "max_new_tokens": 400}
"""How a trained model answers by default: a small model rambles at temperature 1, and what it saw
of thinking was written by rule."""


def train(
    context: typer.Context,
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
        typer.Option(help="Glob of .jsonl(.xz) files below --corpora; repeat."),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(help="The architecture (a preset or config.json)."),
    ] = None,
    init: Annotated[
        str | None,
        typer.Option(
            help="Model or checkpoint folder whose weights to go on "
            "from; its architecture unless --preset names another.",
            metavar="MODEL",
        ),
    ] = None,
    steps: Annotated[int, typer.Option(help="Optimizer steps.", min=1)] = 1000,
    rate: Annotated[float, typer.Option(help="Peak learning rate.")] = 1e-3,
    batch_tokens: BatchTokens = 8192,
    accumulate: Accumulate = 1,
    ramp: Annotated[
        float, typer.Option(help="Share of the steps over which their number grows to that.")
    ] = 0.0,
    max_length: Annotated[int, typer.Option(help="Longest row.", min=2)] = 512,
    length: Annotated[
        list[str] | None,
        typer.Option(
            help="Shorter rows before that, such as 512@0.6: until 60 % of the steps; repeat.",
            metavar="ROW@SHARE",
        ),
    ] = None,
    dense: Annotated[
        float,
        typer.Option(
            help="Share of the steps that read all compressed entries; 0: indexers "
            "choose from the start, 1: they are never trained.",
            min=0,
            max=1,
        ),
    ] = 0.0,
    indexer_steps: Annotated[
        int, typer.Option(help="Steps after those in which the indexers alone learn.", min=0)
    ] = 0,
    optimizer: OptimizerName = "muon",
    tokenizer: Annotated[
        Path | None,
        typer.Option(help="A tokenizer.json; else that of --init, or a new one."),
    ] = None,
    tokenizer_only: Annotated[
        bool, typer.Option("--tokenizer-only", help="Stop when OUT/tokenizer.json is trained.")
    ] = False,
    seed: Seed = 0,
    precision: PrecisionName = None,
    device: Device = None,
    recompute: Recompute = False,
    checkpoint_every: CheckpointEvery = None,
    piece_mib: PieceMib = None,
    max_minutes: MaxMinutes = None,
) -> None:
    """Train a model from a text corpus.

    Checkpoints and metrics.jsonl go to OUT; Ctrl-C saves and stops, the same command goes on.
    A finished run leaves the model in OUT/model, in the released layout, with its curves.
    With --recipe the recipe says what is trained and how: --corpora, --precision, --device and
    what comes after it in the list can be given besides.

    On several devices: torchrun --nproc-per-node 2 -m dsv4 train OUT ...
    """
    from dsv4.errors import UsageError

    if recipe is None and not files:
        raise UsageError("there is nothing to train on", "give --files or --recipe")
    if recipe is not None:
        refuse_beside_recipe(context)

    from dsv4.data.corpora import Source
    from dsv4.training.config import TrainConfig
    from dsv4.training.optimizer import OptimizerSettings
    from dsv4.training.schedule import Schedule

    if recipe is not None:
        config = read_recipe(recipe, corpora, out, TrainConfig)
    else:
        source = _init_folder(init)
        config = TrainConfig(
            model=_architecture(preset, source),
            sources=tuple(
                Source(f"source-{i}", pattern, 1.0, "not stated")
                for i, pattern in enumerate(files or ())
            ),
            corpora=corpora,
            out=out,
            init=source,
            schedule=Schedule(
                steps=steps,
                lr=rate,
                warmup=min(20, steps),
                accumulate=accumulate,
                ramp=ramp,
                lengths=tuple(_length_stage(text) for text in length or ()),
                dense=dense,
                indexer_steps=indexer_steps,
                indexer_lr=rate if indexer_steps else None,
            ),
            optimizer=OptimizerSettings(
                matrices=cast(Any, choice("--optimizer", optimizer, OPTIMIZERS))
            ),
            tokenizer=tokenizer,
            batch_tokens=batch_tokens,
            max_length=max_length,
            seed=seed,
        )
    config = with_options(
        config, precision, device, recompute, checkpoint_every, piece_mib, max_minutes
    )
    _run(config, tokenizer_only)


def _run(config: TrainConfig, tokenizer_only: bool) -> None:
    from dsv4 import parallel
    from dsv4.chat import defaults
    from dsv4.training.pretrain import prepare_tokenizer
    from dsv4.training.pretrain import train as pretrain

    out, steps = config.out, config.schedule.steps
    with parallel.joined(config.device):
        if tokenizer_only:
            tell(f"{prepare_tokenizer(config, tell)}: the tokenizer")
            return
        with following(steps) as report:
            trained = pretrain(config, report=report, status=tell)
        finish(trained, steps, out / "model", out)
        if trained.finished and not parallel.rank():
            defaults.write_defaults(out / "model", ANSWERS)
            draw(out / "metrics.jsonl", out / "model" / "loss.png", f"{out.name}: pre-training")


def _init_folder(init: str | None) -> Path | None:
    """The folder that `--init` means: a model, or a checkpoint of a run."""
    from dsv4 import locate

    if init is None:
        return None
    return Path(init) if (Path(init) / "state.json").is_file() else locate.folder(init)


def _architecture(preset: str | None, init: Path | None) -> ModelConfig:
    """What `--preset` names, or what the folder to start from has. Raises UsageError for a
    checkpoint, which does not say it."""
    from dsv4 import checkpoint, config, presets
    from dsv4.errors import UsageError

    if preset is None and init is not None:
        if not (init / "config.json").is_file():
            raise UsageError(f"{init} does not say its architecture", "name it with --preset")
        return checkpoint.read_config(init)
    name = preset or "nano"
    if name not in presets.PRESETS and Path(name).exists():
        return config.load(name)
    return presets.preset(name)


def _length_stage(text: str) -> tuple[float, int]:
    """`512@0.6` as (share, longest row). Raises UsageError."""
    from dsv4.errors import UsageError

    row, at, share = text.partition("@")
    try:
        return float(share), int(row)
    except ValueError:
        raise UsageError(
            f"--length {text} is no stage", "such as 512@0.6: rows of 512 until 60 % of the steps"
        ) from None
