"""Reinforcement learning on graded tasks: from a model folder to a model that scores higher."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from dsv4.encoding.tokenizer import Tokenizer
from dsv4.training.grpo_objective import GrpoObjective, GrpoSettings
from dsv4.training.loop import LoopSettings, Report, Trainer
from dsv4.training.policy import OPTIMIZER, freeze_routers, load_policy
from dsv4.training.pretrain import Status, Trained
from dsv4.training.rollout_config import RolloutConfig
from dsv4.training.schedule import Schedule


@dataclass(frozen=True)
class RlConfig:
    """One run. `model`: folder to start from, and the reference. `out`: run folder.

    quantise: train and sample with weights rounded to the formats the folder will have, so that
    the exported model is the trained one. The other fields as in `LoopSettings`.
    """

    model: Path
    out: Path
    rollouts: RolloutConfig
    schedule: Schedule
    grpo: GrpoSettings = field(default_factory=GrpoSettings)
    quantise: bool = True
    clip: float = 1.0
    checkpoint_every: int = 10
    max_minutes: float | None = None


def train_rl(
    config: RlConfig,
    *,
    report: Report = lambda record: None,
    status: Status = lambda line: None,
) -> Trained:
    """Run (or resume) GRPO in `config.out`; returns the model as far as it got.

    Raises ConfigError, CheckpointError and EncodingError for a folder that is not a sound model
    with a vocabulary, UsageError for unknown tasks and settings out of range.
    """
    model = load_policy(config.model, quantise=config.quantise)
    freeze_routers(model)
    tokenizer = Tokenizer.from_folder(config.model, model.config.vocab_size)
    source = config.rollouts.source(
        model, tokenizer, quantised=config.quantise, log=config.out / "rollouts"
    )
    reference = None
    if config.grpo.clip.beta:
        reference = load_policy(config.model, quantise=False).requires_grad_(False)
    objective = GrpoObjective(model, source, config.grpo, reference)
    settings = LoopSettings(
        out=config.out,
        schedule=config.schedule,
        optimizer=OPTIMIZER,
        clip=config.clip,
        bias_speed=0.0,
        quantise_from=0.0 if config.quantise else 1.0,
        checkpoint_every=config.checkpoint_every,
        max_minutes=config.max_minutes,
    )
    trainer = Trainer(model, model.config, objective, settings)
    if trainer.resume():
        status(f"resuming after step {trainer.step}")
    finished = trainer.run(report)
    return Trained(model, trainer.step, finished)
