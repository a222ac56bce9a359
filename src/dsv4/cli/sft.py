"""`dsv4 sft`: fine-tuning on conversations, from a recipe, files or tasks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from dsv4.cli.options import ModelArgument
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
    from dsv4.data.corpora import Source
    from dsv4.training.sft import SftConfig


def sft(
    context: typer.Context,
    model: ModelArgument,
    out: Annotated[
        Path, typer.Argument(help="Run folder; an interrupted run in it goes on.", metavar="OUT")
    ],
    corpora: Annotated[
        Path, typer.Option(help="Folder that holds the files; the current one unless given.")
    ] = Path("."),
    recipe: Annotated[
        Path | None,
        typer.Option(help="Python file with config(corpora, out) -> SftConfig; runs as code."),
    ] = None,
    files: Annotated[
        list[str] | None,
        typer.Option(
            help="Glob of .jsonl(.xz) files below --corpora: records of messages, of "
            "prompt and response, or of text; repeat."
        ),
    ] = None,
    task: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME=COUNT problems of a task, with their answers; repeat.", metavar="NAME=COUNT"
        ),
    ] = None,
    heldout: Annotated[
        bool,
        typer.Option(
            "--heldout", help="Keep 5 % of the files' records apart and report the loss on them."
        ),
    ] = False,
    epochs: Annotated[float, typer.Option(help="Passes over the documents.", min=0.001)] = 2.0,
    rate: Annotated[float, typer.Option(help="Peak learning rate.")] = 2e-4,
    batch_tokens: BatchTokens = 8192,
    accumulate: Accumulate = 1,
    max_length: Annotated[
        int, typer.Option(help="Longest row; what is beyond it goes to the next one.", min=2)
    ] = 2048,
    optimizer: OptimizerName = "muon",
    freeze: Annotated[
        list[str] | None,
        typer.Option(
            help="Leave parameters with this in their name as they are; repeat.", metavar="PART"
        ),
    ] = None,
    quantise: Annotated[
        bool,
        typer.Option(help="Train with weights rounded as the released layout stores them."),
    ] = True,
    seed: Seed = 0,
    precision: PrecisionName = None,
    device: Device = None,
    recompute: Recompute = False,
    checkpoint_every: CheckpointEvery = None,
    piece_mib: PieceMib = None,
    max_minutes: MaxMinutes = None,
) -> None:
    """Fine-tune a model on conversations.

    Learned is what the assistant says, thinking and tool calls included; what users, systems and
    tools say is only read. With --recipe the recipe says what is read and how it is learned, and
    MODEL what is trained. A record is {"messages": [{"role": ..., "content": ...}]} or
    {"prompt": ..., "response": ...}; {"text": ...} is learned as a whole. Messages are those of
    the chat API, with reasoning_content, tool_calls and tool_call_id, and "tools" beside them.

    Checkpoints and metrics.jsonl go to OUT; Ctrl-C saves and stops, the same command goes on.
    A finished run leaves the model in OUT/model, in the released layout, with its curves.
    """
    from dsv4.errors import UsageError

    if recipe is None and not files and not task:
        raise UsageError("there is nothing to learn from", "give --files, --task or --recipe")
    if recipe is not None:
        refuse_beside_recipe(context)

    from dataclasses import replace

    from dsv4 import locate
    from dsv4.training.optimizer import OptimizerSettings
    from dsv4.training.schedule import Schedule
    from dsv4.training.sft import SftConfig

    folder = locate.folder(model)
    if recipe is not None:
        config = replace(read_recipe(recipe, corpora, out, SftConfig), init=folder)
    else:
        sources = sources_of(files or [], task or [], "train" if heldout else None)
        config = SftConfig(
            init=folder,
            sources=sources,
            corpora=corpora,
            out=out,
            epochs=epochs,
            schedule=Schedule(1, lr=rate, warmup=10, decay=1.0, accumulate=accumulate),
            heldout=sources_of(files or [], [], "heldout") if heldout else (),
            optimizer=OptimizerSettings(
                matrices=cast(Any, choice("--optimizer", optimizer, OPTIMIZERS))
            ),
            quantise_from=0.0 if quantise else 1.0,
            frozen=tuple(freeze or ()),
            batch_tokens=batch_tokens,
            max_length=max_length,
            seed=seed,
        )
    config = with_options(
        config, precision, device, recompute, checkpoint_every, piece_mib, max_minutes
    )
    _run(config)


def _run(config: SftConfig) -> None:
    from dsv4 import parallel
    from dsv4.training.sft import fine_tune, prepare

    with parallel.joined(config.device):
        prepared = prepare(config, tell)
        out, steps = config.out, prepared.config.schedule.steps
        tell(f"{steps} steps")
        with following(steps) as report:
            trained = fine_tune(prepared, report=report, status=tell)
        finish(trained, steps, out / "model", config.init)
        if trained.finished and not parallel.rank():
            draw(out / "metrics.jsonl", out / "model" / "loss.png", f"{out.name}: fine-tuning")


def sources_of(files: list[str], tasks: list[str], split: Any) -> tuple[Source, ...]:
    """Files and tasks as sources. Raises UsageError for a task without a count or named twice."""
    from dsv4.data.corpora import TASK_PREFIX, Source
    from dsv4.errors import UsageError

    made = [
        Source(f"files-{i}", pattern, 1.0, "not stated", split=split)
        for i, pattern in enumerate(files)
    ]
    for text in tasks:
        name, _, count = text.partition("=")
        if not count.isdecimal() or not int(count):
            raise UsageError(f"--task {text} says no number", "such as --task sums=500")
        if any(source.files == TASK_PREFIX + name for source in made):
            raise UsageError(f"--task {name} is there twice", "add the two numbers up")
        made.append(Source(f"task-{name}", TASK_PREFIX + name, 1.0, "ours", count=int(count)))
    return tuple(made)
