"""`dsv4 lora`: adapters for a model whose weights stay as they are stored."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dsv4.cli.options import ModelArgument
from dsv4.cli.training import (
    Accumulate,
    BatchTokens,
    CheckpointEvery,
    Device,
    MaxMinutes,
    PieceMib,
    Recompute,
    Seed,
)


def lora(
    model: ModelArgument,
    out: Annotated[
        Path, typer.Argument(help="Run folder; an interrupted run in it goes on.", metavar="OUT")
    ],
    corpora: Annotated[
        Path, typer.Option(help="Folder that holds the files; the current one unless given.")
    ] = Path("."),
    files: Annotated[
        list[str] | None,
        typer.Option(help="Glob of .jsonl(.xz) files below --corpora, as for `dsv4 sft`; repeat."),
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
    target: Annotated[
        list[str] | None,
        typer.Option(
            help="attention, output, shared or experts; repeat (attention, shared, which are what "
            "PEFT reads as well)."
        ),
    ] = None,
    rank: Annotated[int, typer.Option(help="Rank of the changes.", min=1)] = 16,
    alpha: Annotated[float, typer.Option(help="They are scaled by alpha / rank.")] = 32.0,
    epochs: Annotated[float, typer.Option(help="Passes over the documents.", min=0.001)] = 2.0,
    rate: Annotated[float, typer.Option(help="Peak learning rate (AdamW).")] = 1e-3,
    batch_tokens: BatchTokens = 8192,
    accumulate: Accumulate = 1,
    max_length: Annotated[
        int, typer.Option(help="Longest row; what is beyond it goes to the next one.", min=2)
    ] = 2048,
    seed: Seed = 0,
    device: Device = None,
    recompute: Recompute = False,
    checkpoint_every: CheckpointEvery = None,
    piece_mib: PieceMib = None,
    max_minutes: MaxMinutes = None,
) -> None:
    """Fine-tune low-rank adapters beside a model's stored FP4 and FP8 weights.

    Learned is what assistants say, as for `dsv4 sft`. Checkpoints and metrics.jsonl go to OUT;
    Ctrl-C saves and stops, the same command goes on. A finished run leaves OUT/adapter, in PEFT's
    format; `dsv4 export MODEL FOLDER --adapter OUT/adapter` merges it.
    """
    from dsv4.errors import UsageError

    if not files and not task:
        raise UsageError("there is nothing to learn from", "give --files or --task")

    from dsv4 import locate
    from dsv4.cli.console import note
    from dsv4.cli.sft import sources_of
    from dsv4.cli.training import following, tell, told_unfinished, with_options
    from dsv4.training.adapters import save_adapter
    from dsv4.training.lora import LoraConfig, LoraSettings, train_lora
    from dsv4.training.schedule import Schedule
    from dsv4.training.sft import prepare

    folder = locate.folder(model)
    config = LoraConfig(
        init=folder,
        sources=sources_of(files or [], task or [], "train" if heldout else None),
        corpora=corpora,
        out=out,
        epochs=epochs,
        schedule=Schedule(1, lr=rate, warmup=10, decay=1.0, accumulate=accumulate, mtp=(0.0, 0.0)),
        heldout=sources_of(files or [], [], "heldout") if heldout else (),
        lora=LoraSettings(rank, alpha, tuple(target or ("attention", "shared"))),
        batch_tokens=batch_tokens,
        max_length=max_length,
        seed=seed,
    )
    config = with_options(config, None, device, recompute, checkpoint_every, piece_mib, max_minutes)
    prepared = prepare(config, tell)
    steps = prepared.config.schedule.steps
    tell(f"{steps} steps")
    with following(steps) as report:
        trained = train_lora(config, prepared, report=report, status=tell)
    if told_unfinished(trained, steps):
        return
    save_adapter(trained.model, out / "adapter", model)
    note(f"{out / 'adapter'}: the adapter; dsv4 export {model} FOLDER --adapter merges it")
    if strange := {"experts", "output"} & {*config.lora.targets}:
        kinds = " and ".join(sorted(strange))
        note(f"PEFT does not read adapters of {kinds} (docs/post_training.md)")
