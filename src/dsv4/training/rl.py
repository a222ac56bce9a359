"""Reinforcement learning on graded tasks: from a model folder to a model that scores higher."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from dsv4 import parallel
from dsv4.encoding.tokenizer import Tokenizer
from dsv4.training.config import RunConfig
from dsv4.training.frozen import freeze
from dsv4.training.grpo_objective import GrpoObjective, GrpoSettings
from dsv4.training.loop import Trainer
from dsv4.training.metrics import Report, Status
from dsv4.training.optimizer import OptimizerSettings
from dsv4.training.policy import OPTIMIZER, ROUTERS, load_policy, rounded_throughout
from dsv4.training.precision import training_form
from dsv4.training.pretrain import Trained
from dsv4.training.rollout_config import RolloutConfig


@dataclass(frozen=True, kw_only=True)
class RlConfig(RunConfig):
    """One run. init: model folder to start from, which the KL term holds the policy to.

    quantise_from 0 trains, and samples, with weights rounded to the formats the folder will have,
    so that the exported model is the trained one but for what that stores in BF16 (the embedding,
    norms, routers), which export rounds; 1 does neither.
    """

    init: Path
    rollouts: RolloutConfig
    grpo: GrpoSettings = field(default_factory=GrpoSettings)
    batch_tokens: int = 4096
    optimizer: OptimizerSettings = OPTIMIZER
    bias_speed: float = 0.0
    quantise_from: float = 0.0
    checkpoint_every: int = 10

    def __post_init__(self) -> None:
        rounded_throughout(self.quantise_from)


def train_rl(
    config: RlConfig,
    *,
    report: Report = lambda record: None,
    status: Status = lambda line: None,
) -> Trained:
    """Run (or resume) GRPO in `config.out`; returns the model as far as it got.

    Raises ConfigError, CheckpointError and EncodingError for a folder that is not a sound model
    with a vocabulary, UsageError for unknown tasks and settings out of range, or several processes.
    """
    parallel.refuse("reinforcement learning")
    quantised = rounded_throughout(config.quantise_from)
    model = load_policy(config.init, quantise=quantised)
    freeze(model, (ROUTERS, *config.frozen))
    tokenizer = Tokenizer.from_folder(config.init, model.config.vocab_size)
    source = config.rollouts.source(
        model, tokenizer, quantised=quantised, seed=config.seed, log=config.out / "rollouts"
    )
    with training_form(model, config.precision, device=config.device, recompute=config.recompute):
        reference = None
        if config.grpo.clip.beta:
            reference = load_policy(config.init, quantise=False).requires_grad_(False)
            reference.to(config.device).numerics = model.numerics
        objective = GrpoObjective(
            model, source, config.grpo, reference, batch_tokens=config.batch_tokens
        )
        trainer = Trainer(model, model.config, objective, config.loop())
        finished = trainer.complete(report, status)
    return Trained(model, trainer.step, finished, trainer.interrupted)
