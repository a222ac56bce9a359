"""Distillation of specialists into one model: from model folders to a model folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dsv4 import parallel
from dsv4.data.batches import Batches, Mix
from dsv4.data.corpora import Source
from dsv4.data.shards import build_shards, digest
from dsv4.encoding.tokenizer import Tokenizer
from dsv4.errors import UsageError
from dsv4.model.transformer import Transformer
from dsv4.training.config import RunConfig
from dsv4.training.distill_objective import OffPolicy, OnPolicy
from dsv4.training.frozen import freeze
from dsv4.training.loop import Trainer
from dsv4.training.metrics import Report, Status
from dsv4.training.objective import Objective
from dsv4.training.optimizer import OptimizerSettings
from dsv4.training.policy import OPTIMIZER, load_policy, rounded_throughout
from dsv4.training.precision import training_form
from dsv4.training.pretrain import Trained
from dsv4.training.rollout_config import RolloutConfig
from dsv4.training.teacher import Teacher, TeacherConfig, teacher_of


@dataclass(frozen=True)
class Texts:
    """Documents to learn from off policy: sources, and the folder their files are in."""

    sources: tuple[Source, ...]
    corpora: Path


@dataclass(frozen=True, kw_only=True)
class DistillConfig(RunConfig):
    """One run. init: folder of the student.

    material: how the student is sampled, or texts; texts have one teacher. quantise_from: as in
    `RlConfig`.
    """

    init: Path
    teachers: tuple[TeacherConfig, ...]
    material: RolloutConfig | Texts
    batch_tokens: int = 4096
    optimizer: OptimizerSettings = OPTIMIZER
    bias_speed: float = 0.0
    quantise_from: float = 0.0
    checkpoint_every: int = 10

    def __post_init__(self) -> None:
        rounded_throughout(self.quantise_from)
        if not self.teachers:
            raise UsageError("there is nobody to learn from", "name a teacher")
        names = [teacher.name for teacher in self.teachers]
        if len({*names}) < len(names):
            raise UsageError(f"two teachers have one name: {', '.join(names)}")
        if isinstance(self.material, Texts) and len(self.teachers) > 1:
            raise UsageError("texts have one teacher", "distil from the others one after another")
        if isinstance(self.material, RolloutConfig):
            asked = {id(teacher_of(kind, self.teachers)) for kind in self.material.questions()}
            idle = [teacher.name for teacher in self.teachers if id(teacher) not in asked]
            if idle:
                raise UsageError(
                    f"teacher {idle[0]} is never asked: of every question another is the teacher",
                    "give each the tasks it is to teach, and name those with --task",
                )


def train_distill(
    config: DistillConfig,
    *,
    report: Report = lambda record: None,
    status: Status = lambda line: None,
) -> Trained:
    """Run (or resume) distillation in `config.out`; returns the student as far as it got.

    Raises ConfigError, CheckpointError and EncodingError for folders that are no sound models
    with a vocabulary, UsageError for vocabularies that differ, questions without a teacher and
    several processes.
    """
    parallel.refuse("distillation")
    model = load_policy(config.init, quantise=rounded_throughout(config.quantise_from))
    freeze(model, config.frozen)
    with training_form(model, config.precision, device=config.device, recompute=config.recompute):
        teachers = [Teacher(teacher, config.init, config.device) for teacher in config.teachers]
        objective = _objective(config, model, teachers, status)
        trainer = Trainer(model, model.config, objective, config.loop())
        finished = trainer.complete(report, status)
    return Trained(model, trainer.step, finished, trainer.interrupted)


def _objective(
    config: DistillConfig, model: Transformer, teachers: list[Teacher], status: Status
) -> Objective[Any]:
    tokenizer = Tokenizer.from_folder(config.init, model.config.vocab_size)
    material = config.material
    if isinstance(material, RolloutConfig):
        source = material.source(
            model,
            tokenizer,
            quantised=rounded_throughout(config.quantise_from),
            seed=config.seed,
            log=config.out / "rollouts",
        )
        return OnPolicy(model, source, teachers, config.batch_tokens)
    shards = build_shards(
        material.sources,
        material.corpora,
        tokenizer,
        model.config.vocab_size,
        config.out / "shards",
        version=digest(config.init / "tokenizer.json"),
        progress=lambda source, count: status(f"{source}: {count} documents"),
    )
    epochs = tuple(source.epochs for source in material.sources)
    batches = Batches(
        Mix(tuple(shards), epochs, masked=True),
        batch_tokens=config.batch_tokens,
        max_length=config.max_length,
        seed=config.seed,
    )
    return OffPolicy(model, batches, teachers[0])
