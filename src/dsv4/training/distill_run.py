"""Distillation of specialists into one model: from model folders to a model folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dsv4.data.batches import Batches, Mix
from dsv4.data.corpora import Source
from dsv4.data.shards import build_shards, digest
from dsv4.encoding.tokenizer import Tokenizer
from dsv4.errors import UsageError
from dsv4.model.transformer import Transformer
from dsv4.training.distill_objective import OffPolicy, OnPolicy
from dsv4.training.loop import LoopSettings, Report, Trainer
from dsv4.training.objective import Objective
from dsv4.training.policy import OPTIMIZER, load_policy
from dsv4.training.pretrain import Status, Trained
from dsv4.training.rollout_config import RolloutConfig
from dsv4.training.schedule import Schedule
from dsv4.training.teacher import Teacher, TeacherConfig


@dataclass(frozen=True)
class Texts:
    """Documents to learn from off policy: sources below a folder, rows of at most max_length."""

    sources: tuple[Source, ...]
    corpora: Path
    max_length: int = 512
    seed: int = 0


@dataclass(frozen=True)
class DistillConfig:
    """One run. `student`: folder to start from. `out`: run folder.

    material: how the student is sampled, or texts; texts have one teacher.
    batch_tokens: ids of a micro-batch, with padding. quantise: as in `RlConfig`. The other fields
    as in `LoopSettings`.
    """

    student: Path
    out: Path
    teachers: tuple[TeacherConfig, ...]
    material: RolloutConfig | Texts
    schedule: Schedule
    batch_tokens: int = 4096
    quantise: bool = True
    clip: float = 1.0
    checkpoint_every: int = 10
    max_minutes: float | None = None

    def __post_init__(self) -> None:
        if not self.teachers:
            raise UsageError("there is nobody to learn from", "name a teacher")
        names = [teacher.name for teacher in self.teachers]
        if len({*names}) < len(names):
            raise UsageError(f"two teachers have one name: {', '.join(names)}")
        if isinstance(self.material, Texts) and len(self.teachers) > 1:
            raise UsageError("texts have one teacher", "distil from the others one after another")


def train_distill(
    config: DistillConfig,
    *,
    report: Report = lambda record: None,
    status: Status = lambda line: None,
) -> Trained:
    """Run (or resume) distillation in `config.out`; returns the student as far as it got.

    Raises ConfigError, CheckpointError and EncodingError for folders that are no sound models
    with a vocabulary, UsageError for vocabularies that differ and questions without a teacher.
    """
    model = load_policy(config.student, quantise=config.quantise)
    teachers = [Teacher(teacher, config.student) for teacher in config.teachers]
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
    objective = _objective(config, model, teachers, status)
    trainer = Trainer(model, model.config, objective, settings)
    if trainer.resume():
        status(f"resuming after step {trainer.step}")
    finished = trainer.run(report)
    return Trained(model, trainer.step, finished)


def _objective(
    config: DistillConfig, model: Transformer, teachers: list[Teacher], status: Status
) -> Objective[Any]:
    tokenizer = Tokenizer.from_folder(config.student, model.config.vocab_size)
    material = config.material
    if isinstance(material, RolloutConfig):
        source = material.source(
            model, tokenizer, quantised=config.quantise, log=config.out / "rollouts"
        )
        return OnPolicy(model, source, teachers, config.batch_tokens)
    shards = build_shards(
        material.sources,
        material.corpora,
        tokenizer,
        model.config.vocab_size,
        config.out / "shards",
        version=digest(config.student / "tokenizer.json"),
        progress=lambda source, count: status(f"{source}: {count} documents"),
    )
    epochs = tuple(source.epochs for source in material.sources)
    batches = Batches(
        Mix(tuple(shards), epochs, masked=True),
        batch_tokens=config.batch_tokens,
        max_length=material.max_length,
        seed=material.seed,
    )
    return OffPolicy(model, batches, teachers[0])
