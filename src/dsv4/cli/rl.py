"""`dsv4 rl`: reinforcement learning on graded tasks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

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


def rl(
    model: ModelArgument,
    out: Annotated[
        Path, typer.Argument(help="Run folder; an interrupted run in it goes on.", metavar="OUT")
    ],
    task: Annotated[
        list[str],
        typer.Option(help="NAME, NAME:EFFORT (off, high, max), with =WEIGHT; repeat for more."),
    ],
    steps: Annotated[int, typer.Option(help="Optimizer steps.", min=1)] = 100,
    rate: Annotated[float, typer.Option(help="Peak learning rate (AdamW).")] = 1e-5,
    prompts: Annotated[int, typer.Option(help="Questions of a sampled batch.", min=1)] = 32,
    group: Annotated[int, typer.Option(help="Answers to each question.", min=2)] = 8,
    updates: Annotated[int, typer.Option(help="Optimizer steps per sampled batch.", min=1)] = 1,
    limit: Annotated[
        list[str] | None,
        typer.Option(help="EFFORT=TOKENS[:PENALTY]: longest answer, what its length costs."),
    ] = None,
    context: Annotated[int, typer.Option(help="Longest prompt and answer.", min=16)] = 2048,
    beta: Annotated[float, typer.Option(help="Weight of the KL term; 0: none.", min=0)] = 1e-3,
    clip_low: Annotated[float, typer.Option(help="The ratio is cut below 1 - this.")] = 0.2,
    clip_high: Annotated[float, typer.Option(help="The ratio is cut above 1 + this.")] = 0.28,
    delta: Annotated[
        float, typer.Option(help="Mean log-ratio from which bad answers teach nothing.")
    ] = 0.5,
    learn_truncated: Annotated[
        bool, typer.Option(help="Learn from answers that their limit cut off.")
    ] = True,
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
    """Train a model on graded tasks with GRPO.

    Answers are drawn by the serving engine and written to OUT/rollouts; checkpoints and
    metrics.jsonl go to OUT. Ctrl-C saves and stops, the same command goes on. A finished run
    leaves the model in OUT/model, in the released layout.
    """
    from dsv4 import locate
    from dsv4.cli.training import finish, following, tell, with_options
    from dsv4.training.grpo import Clip
    from dsv4.training.grpo_objective import GrpoSettings
    from dsv4.training.rl import RlConfig, train_rl
    from dsv4.training.rollout_config import RolloutConfig
    from dsv4.training.schedule import Schedule
    from dsv4.training.task_questions import Kind, parse_limits

    folder = locate.folder(model)
    rollouts = RolloutConfig(
        tuple(Kind.parse(text) for text in task),
        prompts,
        group,
        parse_limits(limit or ()),
        context,
    )
    clip = Clip(clip_low, clip_high, beta, delta)
    config = RlConfig(
        init=folder,
        out=out,
        rollouts=rollouts,
        schedule=Schedule(steps=steps, lr=rate, warmup=min(5, steps), decay=0.2),
        grpo=GrpoSettings(updates, clip, learn_truncated),
        batch_tokens=batch_tokens,
        quantise_from=0.0 if quantise else 1.0,
        seed=seed,
    )
    config = with_options(
        config, precision, device, recompute, checkpoint_every, piece_mib, max_minutes
    )
    with following(steps, "reward", "score", "length", "truncated", "kl", "entropy") as report:
        trained = train_rl(config, report=report, status=tell)
    finish(trained, steps, out / "model", folder)
