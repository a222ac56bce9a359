"""Teachers: models that say what should have been more likely.

A teacher reads samples once and leaves the inputs of its head, [M, E] instead of [M, V]: logits are
rebuilt from them when they are needed. On the CPU the weights of a large one stay in their mapped
files, decoded as they are used, so many teachers need little memory.

Shapes: M positions, E hidden channels of the teacher, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path

import torch
from torch import Tensor

from dsv4 import checkpoint
from dsv4.chat.model import EXPAND_BELOW
from dsv4.encoding.tokenizer import Tokenizer
from dsv4.errors import UsageError
from dsv4.model.cost import parameters
from dsv4.model.transformer import Transformer
from dsv4.model.weights import expand_quantized
from dsv4.numerics.policy import Numerics
from dsv4.training.answers import Answers, hidden_states
from dsv4.training.task_questions import Kind


@dataclass(frozen=True)
class TeacherConfig:
    """A model folder and the questions it is asked about.

    domains: tasks, or tasks with an effort; a teacher without any is asked about what no other
    is (`teacher_of`). weight: of its divergence in the loss.
    """

    name: str
    folder: Path
    domains: tuple[Kind, ...] = ()
    weight: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.weight < inf:
            raise UsageError(f"teacher {self.name} has weight {self.weight}", "above 0")

    def names(self, kind: str) -> bool:
        """Whether a kind such as `arithmetic:high`, or a task, is among its domains."""
        return kind in {f"{d.task}:{d.effort}" if d.effort else d.task for d in self.domains}


def teacher_of(kind: str, teachers: Sequence[TeacherConfig]) -> TeacherConfig:
    """Who is asked about questions of a kind such as `arithmetic:high`: the first that names it,
    else the first that names its task, else the first that names nothing. Raises UsageError."""
    task = kind.partition(":")[0]
    for name in (kind, task):
        for teacher in teachers:
            if teacher.names(name):
                return teacher
    for teacher in teachers:
        if not teacher.domains:
            return teacher
    raise UsageError(f"no teacher teaches {kind}", "name one without a task, for the rest")


class Teacher:
    """A loaded teacher of a student's vocabulary."""

    def __init__(self, config: TeacherConfig, student: Path, device: str = "cpu") -> None:
        """student: its folder. Raises CheckpointError for an unsound folder, UsageError for another
        vocabulary than the student's."""
        self.config = config
        canonical = Tokenizer.canonical_ids_of(config.folder)
        self._model: Transformer = checkpoint.load(config.folder, canonical_ids=canonical)
        if device != "cpu" or parameters(self._model.config).total < EXPAND_BELOW:
            expand_quantized(self._model)
        self._model.to(device)
        same = self._model.config.vocab_size == checkpoint.read_config(student).vocab_size
        if not same or _vocabulary(student) != _vocabulary(config.folder):
            raise UsageError(
                f"teacher {config.name} has another vocabulary than the student",
                "distributions can only be compared over the same tokens",
            )

    @property
    def head_VE(self) -> Tensor:
        return self._model.head.weight

    @torch.no_grad()
    def hidden(self, answers: Answers, numerics: Numerics) -> Tensor:
        """The head's inputs where each drawn id is predicted, `[M, E]`, computed as the student
        computes."""
        self._model.numerics = numerics
        return hidden_states(self._model, answers.to(self.head_VE.device))


def _vocabulary(folder: Path) -> list[bytes]:
    """The bytes of every token of a model's vocabulary."""
    tokenizer = Tokenizer.from_folder(folder)
    return [tokenizer.token_bytes(index) for index in range(tokenizer.vocab_size)]
