"""`dsv4 distill`: several teachers' distributions into one student."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dsv4.cli.options import ModelArgument
from dsv4.cli.training import (
    BatchTokens,
    CheckpointEvery,
    Device,
    MaxMinutes,
    PieceMib,
    PrecisionName,
    Recompute,
    Seed,
)

if TYPE_CHECKING:
    from dsv4.training.distill_run import Texts
    from dsv4.training.rollout_config import RolloutConfig
    from dsv4.training.teacher import TeacherConfig


def distill(
    context: typer.Context,
    student: ModelArgument,
    out: Annotated[
        Path, typer.Argument(help="Run folder; an interrupted run in it goes on.", metavar="OUT")
    ],
    teacher: Annotated[
        list[str],
        typer.Option(help="NAME=FOLDER, or NAME=FOLDER:TASK,TASK:EFFORT; repeat for more."),
    ],
    weight: Annotated[
        list[str] | None, typer.Option(help="NAME=WEIGHT of a teacher in the loss (1).")
    ] = None,
    task: Annotated[
        list[str] | None,
        typer.Option(help="What the student answers; else the teachers' tasks. As in `dsv4 rl`."),
    ] = None,
    steps: Annotated[int, typer.Option(help="Optimizer steps.", min=1)] = 100,
    rate: Annotated[float, typer.Option(help="Peak learning rate (AdamW).")] = 5e-5,
    prompts: Annotated[int, typer.Option(help="Questions of a step.", min=1)] = 64,
    limit: Annotated[list[str] | None, typer.Option(help="EFFORT=TOKENS: longest answer.")] = None,
    length: Annotated[
        int, typer.Option("--context", help="Longest prompt and answer.", min=16)
    ] = 2048,
    corpora: Annotated[
        Path | None, typer.Option(help="Learn from texts instead: folder that holds them.")
    ] = None,
    files: Annotated[
        list[str] | None,
        typer.Option(help="Glob of .jsonl(.xz) files below --corpora, or tasks:NAME=COUNT."),
    ] = None,
    max_length: Annotated[int, typer.Option(help="Longest row of texts.", min=16)] = 512,
    quantise: Annotated[
        bool, typer.Option(help="Train and sample with weights in their released formats.")
    ] = True,
    batch_tokens: BatchTokens = 4096,
    seed: Seed = 0,
    precision: PrecisionName = None,
    device: Device = None,
    recompute: Recompute = False,
    checkpoint_every: CheckpointEvery = None,
    piece_mib: PieceMib = None,
    max_minutes: MaxMinutes = None,
) -> None:
    """Train a student towards its teachers' distributions over the whole vocabulary.

    On policy: the student answers questions, and the teacher of each question's task says at every
    token what it would have written. With --corpora it learns from given texts and one teacher.
    Checkpoints and metrics.jsonl go to OUT; Ctrl-C saves and stops, the same command goes on. A
    finished run leaves the student in OUT/model, in the released layout.
    """
    from dsv4 import locate
    from dsv4.cli.training import finish, following, refuse, tell, with_options
    from dsv4.training.distill_run import DistillConfig, train_distill
    from dsv4.training.schedule import Schedule

    folder = locate.folder(student)
    teachers = _teachers(teacher, weight or [])
    material: RolloutConfig | Texts
    if corpora is not None or files:
        answered = ("task", "prompts", "limit", "length")
        refuse(context, answered, "is about answers", "leave it out beside texts")
        material = _texts(corpora, files or [], seed)
    else:
        refuse(context, ("max_length",), "is about texts", "--context is for answers")
        material = _rollouts(teachers, task or [], prompts, limit or [], length)
    config = DistillConfig(
        init=folder,
        out=out,
        teachers=teachers,
        material=material,
        schedule=Schedule(steps=steps, lr=rate, warmup=min(5, steps), decay=0.2),
        batch_tokens=batch_tokens,
        max_length=max_length,
        quantise_from=0.0 if quantise else 1.0,
        seed=seed,
    )
    config = with_options(
        config, precision, device, recompute, checkpoint_every, piece_mib, max_minutes
    )
    with following(steps, "loss", "score", "length", "truncated") as report:
        trained = train_distill(config, report=report, status=tell)
    finish(trained, steps, out / "model", folder)


def _teachers(texts: list[str], weights: list[str]) -> tuple[TeacherConfig, ...]:
    """Raises UsageError for what names no teacher."""
    from dsv4 import locate
    from dsv4.errors import UsageError
    from dsv4.training.task_questions import Kind
    from dsv4.training.teacher import TeacherConfig

    shares: dict[str, float] = {}
    for text in weights:
        name, _, value = text.partition("=")
        if name in shares:
            raise UsageError(f"teacher {name} has two weights", "give one")
        try:
            shares[name] = float(value)
        except ValueError:
            raise UsageError(f"{text!r} is no weight", "such as math=0.5") from None
    teachers = []
    for text in texts:
        name, equals, rest = text.partition("=")
        place, _, domains = rest.partition(":")
        if not name or not equals or not place:
            raise UsageError(f"{text!r} is no teacher", "such as math=FOLDER:arithmetic")
        kinds = tuple(Kind.parse(domain) for domain in domains.split(",") if domain)
        share = shares.pop(name, 1.0)
        teachers.append(TeacherConfig(name, locate.folder(place), kinds, share))
    if shares:
        raise UsageError(f"there is no teacher called {next(iter(shares))}", "see --teacher")
    return tuple(teachers)


def _rollouts(
    teachers: tuple[TeacherConfig, ...],
    tasks: list[str],
    prompts: int,
    limits: list[str],
    context: int,
) -> RolloutConfig:
    from dsv4.errors import UsageError
    from dsv4.training.rollout_config import RolloutConfig
    from dsv4.training.task_questions import Kind, parse_limits

    kinds = tuple(Kind.parse(text) for text in tasks)
    kinds = kinds or tuple(kind for teacher in teachers for kind in teacher.domains)
    if not kinds:
        raise UsageError("there is nothing to answer", "give --task, or tasks with the teachers")
    return RolloutConfig(kinds, prompts, 1, parse_limits(limits), context)


def _texts(corpora: Path | None, files: list[str], seed: int) -> Texts:
    from dsv4.data.corpora import TASK_PREFIX, Source
    from dsv4.errors import UsageError
    from dsv4.training.distill_run import Texts

    if corpora is None or not files:
        raise UsageError("texts need both --corpora and --files", "or give --task instead")
    sources = []
    for i, text in enumerate(files):
        pattern, number = text, 0
        if text.startswith(TASK_PREFIX):
            pattern, _, count = text.partition("=")
            if not count.isdecimal() or not int(count):
                raise UsageError(f"--files {text} says no number", "such as tasks:arithmetic=500")
            number = int(count)
        sources.append(Source(f"source-{i}", pattern, 1.0, "not stated", count=number, seed=seed))
    return Texts(tuple(sources), corpora)
