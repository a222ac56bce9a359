"""The last stages: a model practises on graded tasks, and one model learns from the specialists.

    specialise   reinforcement learning (GRPO) on the tasks of one field
    distil       the tuned model answers and learns, for every id it drew, the distribution of the
                 specialist of the question's field; for other questions, its own of before

Answers are drawn on the CPU, by the serving engine. Weights are rounded to the released formats
wherever they are used, and kept in float32: steps too small to move a stored code add up.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dsv4.tasks.problem import EFFORTS
from dsv4.training import Schedule
from dsv4.training.distill_run import DistillConfig, train_distill
from dsv4.training.grpo import Clip
from dsv4.training.grpo_objective import GrpoSettings
from dsv4.training.metrics import Report
from dsv4.training.pretrain import Trained
from dsv4.training.rl import RlConfig, train_rl
from dsv4.training.rollout_config import RolloutConfig
from dsv4.training.task_questions import Kind, Limit
from dsv4.training.teacher import TeacherConfig

PRICE = {"off": 0.05, "high": 0.05, "max": 0.02}
"""What the longest answer costs of a score: little, or a small model stops to think before it can
do without."""


@dataclass(frozen=True)
class Practice:
    """Sizes of a stage that learns from its own answers.

    tasks: as `dsv4 rl --task` takes them. prompts: questions of a step; group: answers to each.
    answers: ids of the longest answer; context: of question and answer. batch_tokens: ids of a
    micro-batch, with padding.
    """

    tasks: tuple[str, ...]
    schedule: Schedule
    prompts: int = 16
    group: int = 8
    answers: int = 384
    context: int = 640
    batch_tokens: int = 4096

    @property
    def kinds(self) -> tuple[Kind, ...]:
        return tuple(map(Kind.parse, self.tasks))

    @property
    def rollouts(self) -> RolloutConfig:
        limits = {effort: Limit(self.answers, PRICE[effort]) for effort in EFFORTS}
        return RolloutConfig(self.kinds, self.prompts, self.group, limits, self.context)


REASON = Practice(
    (
        "arithmetic:high=4", "arithmetic:max=2", "arithmetic:off=2",
        "word_problem:high", "word_problem:off=2",
    ),
    Schedule(24, lr=4e-4, warmup=3, decay=0.3),
    prompts=12,
)  # fmt: skip
TOOLS = Practice(
    ("tool_call=2", "tool_calls=5", "tool_result"),
    Schedule(16, lr=4e-4, warmup=2, decay=0.3),
    prompts=4,
    group=6,
    answers=256,
    context=1280,
)
DISTILL = Practice(
    (
        "arithmetic:high=5", "arithmetic:off=2", "word_problem:high=4", "word_problem:off",
        "tool_call", "tool_calls", "tool_result", "tool_none", "everyday_tool",
        "identity=3", "strings=2", "format=2", "recall", "memory", "whereabouts=2", "meaning=2",
        "infill=2",
    ),
    Schedule(25, lr=1e-4, warmup=3, decay=0.5),
    prompts=32,
    group=1,
    answers=256,
    context=1280,
)  # fmt: skip


def specialise(
    practice: Practice, init: Path, out: Path, report: Report, max_minutes: float | None
) -> Trained:
    """A model that is better at the tasks.

    Nothing holds it to the model of `init`: only its own tasks are learned from it. So groups whose
    answers are equally good need not be computed, which are most in the end.
    """
    config = RlConfig(
        init=init,
        out=out,
        rollouts=practice.rollouts,
        grpo=GrpoSettings(clip=Clip(beta=0.0)),
        schedule=practice.schedule,
        batch_tokens=practice.batch_tokens,
        max_minutes=max_minutes,
    )
    return train_rl(config, report=report, status=print)


def distil(
    practice: Practice,
    init: Path,
    specialists: dict[Path, Practice],
    out: Path,
    report: Report,
    max_minutes: float | None,
) -> Trained:
    """The model of `init` with what the specialists (model folder: what it practised) learned."""
    teachers = [
        TeacherConfig(folder.parent.name, folder, own.kinds) for folder, own in specialists.items()
    ]
    config = DistillConfig(
        init=init,
        out=out,
        teachers=(*teachers, TeacherConfig("itself", init)),
        material=practice.rollouts,
        schedule=practice.schedule,
        batch_tokens=practice.batch_tokens,
        max_minutes=max_minutes,
    )
    return train_distill(config, report=report, status=print)
