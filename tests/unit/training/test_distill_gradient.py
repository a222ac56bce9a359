"""What a step of distillation learns: from whom, how much of it, whatever its micro-batches are."""

import copy
from dataclasses import dataclass, replace

import pytest
import torch
from tests.unit.training.toy_policy import Given, toy_folder

from dsv4.data.batches import Batch, Position
from dsv4.numerics.policy import EXACT
from dsv4.training.answers import collate
from dsv4.training.distill_objective import OffPolicy, OnPolicy
from dsv4.training.policy import load_policy
from dsv4.training.questions import Question
from dsv4.training.rollout import Sample
from dsv4.training.rollout_source import RolloutSource
from dsv4.training.task_questions import Kind
from dsv4.training.teacher import Teacher, TeacherConfig

FEW, ALL = 24, 4096
"""Ids of a micro-batch: one or two answers, and all of a teacher's."""
KINDS = ("arithmetic:off", "strings:off", "strings:off", "arithmetic:off", "strings:off")


class ByTurns:
    """Questions of KINDS, one after the other. No answer is better than another."""

    def __init__(self):
        self.kinds = iter(KINDS)

    def draw(self, rng):
        return Question(next(self.kinds), (5, 6, 7), 9, 0.0, lambda answer: 0.0, str)


@pytest.fixture(scope="module")
def samples():
    """An answer to each question, of many lengths; how likely each was is not looked at."""
    rng = torch.Generator().manual_seed(1)
    made = []
    for prompt, answer in ((4, 9), (6, 2), (3, 5), (8, 3), (5, 12)):
        ids = torch.randint(3, 200, (prompt + answer,), generator=rng).tolist()
        experts = torch.zeros(prompt + answer - 1, 3, 3, dtype=torch.long)
        made.append(Sample((*ids[:prompt],), (*ids[prompt:],), (0.0,) * answer, True, experts))
    return made


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("distill")
    return [toy_folder(root / str(seed), seed, 4.0 - seed) for seed in range(3)]


@pytest.fixture(scope="module")
def student(folders):
    return load_policy(folders[0], quantise=True)


@pytest.fixture(scope="module")
def teachers(folders):
    """Of sums and of strings."""
    return [
        Teacher(TeacherConfig(task, folder, (Kind(task),)), folders[0])
        for task, folder in zip(("arithmetic", "strings"), folders[1:], strict=True)
    ]


def asking(teacher, **changes):
    """The same model, with another weight or for other questions."""
    made = copy.copy(teacher)
    made.config = replace(teacher.config, **changes)
    return made


@dataclass(frozen=True)
class Step:
    """Micro-batches of one step, what each gave, and the gradients, summed as the loop does."""

    lessons: list
    losses: list
    grads: dict

    @property
    def total(self):
        return sum(float(loss.total.detach()) for loss in self.losses)

    def mean(self, metric):
        sums = [loss.sums[metric] for loss in self.losses if metric in loss.sums]
        return sum(x for x, _ in sums) / sum(weight for _, weight in sums)


def differentiated(student, objective):
    student.zero_grad()
    lessons, _ = objective.next(Position(), 0)
    losses = []
    for lesson in lessons:
        losses.append(objective.loss(lesson, lessons, 0))
        losses[-1].total.backward()
    return Step(lessons, losses, gradients(student))


def gradients(model):
    found = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    assert len(found) > 50
    return found


def on_policy(student, samples, teachers, out, batch_tokens=ALL):
    source = RolloutSource(Given(samples), ByTurns(), len(KINDS), 1, out)
    return differentiated(student, OnPolicy(student, source, teachers, batch_tokens))


def assert_close(found, wanted):
    """Gradients, but for float32 sums in another order, which cancel more in some than others."""
    assert found.keys() == wanted.keys()
    for name, grad in wanted.items():
        assert float((found[name] - grad).norm()) < 2e-3 * float(grad.norm()) + 1e-9, name


def divergences(student, teacher, ids, places):
    """Of the student from a teacher, by definition, in float64 from the logits on."""
    answers = collate([Sample(ids[:1], ids[1:], (), True, torch.zeros(len(ids) - 1, 3, 3))])
    told = teacher.hidden(answers, EXACT)[places].double() @ teacher.head_VE.double().T
    logits = student(torch.tensor([ids[:-1]])).logits_BTV[0, places].double()
    logp, logq = torch.log_softmax(logits, -1), torch.log_softmax(told, -1)
    return (logp.exp() * (logp - logq)).sum(-1)


def test_many_micro_batches_have_the_gradient_of_few(student, samples, teachers, tmp_path):
    """Ids weigh the same in whichever they are, since they are counted over the whole step."""
    few = on_policy(student, samples, teachers, tmp_path, ALL)
    many = on_policy(student, samples, teachers, tmp_path, FEW)
    assert len(few.lessons) == 2 and len(many.lessons) > 3
    assert many.total == pytest.approx(few.total, rel=1e-4)
    assert_close(many.grads, few.grads)


@pytest.mark.parametrize("swapped", [False, True])
def test_every_teacher_is_asked_about_its_own_questions(
    student, samples, teachers, tmp_path, swapped
):
    """L = sum_i w_i KL(student || teacher_i) by hand, answer by answer, whoever teaches what."""
    tasks = ("strings", "arithmetic") if swapped else ("arithmetic", "strings")
    asked = {
        task: asking(teacher, weight=weight, domains=(Kind(task),))
        for teacher, task, weight in zip(teachers, tasks, (0.5, 2.0), strict=True)
    }
    step = on_policy(student, samples, [*asked.values()], tmp_path)
    student.zero_grad()
    told = {task: [] for task in tasks}
    for sample, kind in zip(samples, KINDS, strict=True):
        task, _, _ = kind.partition(":")
        own = slice(len(sample.prompt) - 1, None)
        kl = divergences(student, asked[task], sample.ids, own)
        told[task] += kl.tolist()
        (asked[task].config.weight * kl.sum()).backward()
    count = sum(map(len, told.values()))
    total = sum(asked[task].config.weight * sum(told[task]) for task in tasks) / count
    assert step.total == pytest.approx(total, rel=1e-4)
    assert step.mean("loss") == pytest.approx(total, rel=1e-4)
    for task, values in told.items():
        name = f"kl.{asked[task].config.name}"
        assert step.mean(name) == pytest.approx(sum(values) / len(values), rel=1e-4)
    assert_close(step.grads, {name: grad / count for name, grad in gradients(student).items()})


def test_half_the_weight_is_half_the_gradient(student, samples, teachers, tmp_path):
    """And half the loss, but no other divergence."""
    one, half = (
        on_policy(student, samples, [asking(teachers[0], weight=w, domains=())], tmp_path)
        for w in (1.0, 0.5)
    )
    assert half.mean("kl.arithmetic") == one.mean("kl.arithmetic")
    assert half.mean("loss") == one.mean("loss") / 2 > 0
    assert half.total == pytest.approx(one.total / 2)
    assert_close(half.grads, {name: grad / 2 for name, grad in one.grads.items()})


class OneBatch:
    """Stands in for `Batches`."""

    def __init__(self, batch):
        self.batch = batch

    def next(self, position):
        return self.batch, position


def test_texts_teach_the_ids_that_their_masks_name(student, teachers):
    """Off policy: every such id alike, by the weight of the one teacher."""
    ids = torch.tensor([[*range(5, 17)], [*range(40, 48), 2, 2, 2, 2]])
    learned = torch.zeros_like(ids, dtype=torch.bool)
    learned[0, 3:9] = learned[1, 5:8] = True
    batches = OneBatch(Batch(ids, torch.tensor([12, 8]), learned))
    step = differentiated(student, OffPolicy(student, batches, asking(teachers[1], weight=0.5)))
    student.zero_grad()
    parts = [
        divergences(student, teachers[1], tuple(range(5, 17)), slice(2, 8)),
        divergences(student, teachers[1], tuple(range(40, 48)), slice(4, 7)),
    ]
    total = 0.5 * sum(part.sum() for part in parts) / 9
    total.backward()
    assert step.total == pytest.approx(float(total.detach()), rel=1e-4)
    assert_close(step.grads, gradients(student))
