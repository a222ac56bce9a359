"""Distillation end to end: nothing to learn from oneself, less distance to others, exact resume."""

import json
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.unit.training.toy_policy import toy_folder

from dsv4 import checkpoint
from dsv4.data.batches import Batch
from dsv4.data.corpora import Source
from dsv4.errors import UsageError
from dsv4.tasks.problem import Ask
from dsv4.training.answers import from_batch
from dsv4.training.distill_run import DistillConfig, Texts, train_distill
from dsv4.training.rollout_config import RolloutConfig
from dsv4.training.schedule import Schedule
from dsv4.training.task_questions import Kind, Limit
from dsv4.training.teacher import TeacherConfig, teacher_of

SUMS, STRINGS = Kind("arithmetic", "off"), Kind("strings", "off")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("distill")
    return {
        name: toy_folder(root / name, seed, sharper)
        for name, seed, sharper in (("student", 0, 1.0), ("sums", 1, 5.0), ("strings", 1, 4.0))
    }


def config(folders, out, steps=5, **values):
    rollouts = RolloutConfig(
        (SUMS, STRINGS), prompts=4, group=1, limits={"off": Limit(4)}, context=400
    )
    teachers = (
        TeacherConfig("sums", folders["sums"], (SUMS,)),
        TeacherConfig("strings", folders["strings"], (Kind("strings"),), weight=0.5),
    )
    settings = {
        "teachers": teachers, "material": rollouts, "checkpoint_every": 100,
        "schedule": Schedule(steps=steps, lr=3e-3, warmup=1, decay=0.0),
    }  # fmt: skip
    return DistillConfig(init=folders["student"], out=out, **(settings | values))


def metrics(out):
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    timing = ("seconds", "tokens_per_second")
    return [{k: v for k, v in r.items() if k not in timing} for r in records]


def test_the_distance_to_every_teacher_falls_and_a_cut_run_goes_on_exactly(folders, tmp_path):
    def stop_there(record):
        if record["step"] == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    assert train_distill(config(folders, tmp_path / "whole")).finished
    records = metrics(tmp_path / "whole")
    for teacher in ("sums", "strings"):
        assert records[-1][f"kl.{teacher}"] < 0.85 * records[0][f"kl.{teacher}"]
    assert not train_distill(config(folders, tmp_path / "cut"), report=stop_there).finished
    assert train_distill(config(folders, tmp_path / "cut")).finished
    assert metrics(tmp_path / "cut") == records


def test_a_student_learns_exactly_nothing_from_itself(folders, tmp_path):
    """Also through export: its weights round to what was stored."""
    itself = (TeacherConfig("itself", folders["student"]),)
    trained = train_distill(config(folders, tmp_path, steps=1, teachers=itself))
    record = metrics(tmp_path)[0]
    assert (record["loss"], record["kl.itself"], record["grad_norm"]) == (0.0, 0.0, 0.0)
    checkpoint.export_released(trained.model, tmp_path / "model")
    name = "model-00001-of-00001.safetensors"
    assert (tmp_path / "model" / name).read_bytes() == (folders["student"] / name).read_bytes()


def test_texts_teach_at_the_ids_that_their_masks_have_learned(folders, tmp_path):
    source = Source("sums", "tasks:arithmetic", 1.0, "ours", count=40, ask=Ask(effort="off"))
    texts = config(
        folders, tmp_path, steps=5, teachers=(TeacherConfig("sums", folders["sums"]),),
        material=Texts((source,), tmp_path), batch_tokens=256, max_length=256,
    )  # fmt: skip
    assert train_distill(texts).finished
    records = metrics(tmp_path)
    assert records[-1]["kl.sums"] < 0.85 * records[0]["kl.sums"]
    assert "score" not in records[0]


def test_learned_ids_of_documents_are_where_they_are_predicted():
    ids = torch.tensor([[5, 6, 7, 8], [9, 10, 2, 2]])
    learned = torch.tensor([[False, False, True, True], [True, True, False, False]])
    answers = from_batch(Batch(ids, torch.tensor([4, 2]), learned))
    assert answers.row_M.tolist() == [0, 0, 1]
    assert answers.place_M.tolist() == [1, 2, 0]
    assert answers.drawn_M.tolist() == [7, 8, 10]
    everything = from_batch(Batch(ids, torch.tensor([4, 2])))
    assert everything.drawn_M.tolist() == [6, 7, 8, 10]


def test_questions_without_a_teacher_are_refused(folders, tmp_path):
    only = (TeacherConfig("sums", folders["sums"], (SUMS,)),)
    with pytest.raises(UsageError, match="no teacher teaches strings:off"):
        train_distill(config(folders, tmp_path, teachers=only))


def test_who_is_asked_names_the_question_most_closely(tmp_path):
    any_sums, hard, rest, other = (
        TeacherConfig(name, tmp_path, kinds)
        for name, kinds in (
            ("any", (Kind("arithmetic"),)),
            ("hard", (Kind("arithmetic", "high"),)),
            ("rest", ()),
            ("other", ()),
        )
    )
    teachers = (any_sums, hard, rest, other)
    assert teacher_of("arithmetic:high", teachers) is hard
    assert teacher_of("arithmetic:off", teachers) is any_sums
    assert teacher_of("strings:off", teachers) is rest


@pytest.mark.parametrize(
    ("more", "idle"),
    [
        ([("words", (Kind("strings"),))], "words"),
        ([("again", (Kind("arithmetic", "off"),))], "again"),
        ([("rest", ())], "rest"),
    ],
)
def test_a_teacher_whom_no_question_reaches_is_refused(more, idle, tmp_path):
    sums = TeacherConfig("sums", tmp_path, (Kind("arithmetic"),))
    first = TeacherConfig("first", tmp_path, (Kind("arithmetic", "off"),))
    teachers = (sums, first, *(TeacherConfig(name, tmp_path, kinds) for name, kinds in more))
    material = RolloutConfig((Kind("arithmetic"),), 2, 1)
    with pytest.raises(UsageError, match=f"teacher {idle} is never asked"):
        DistillConfig(
            init=tmp_path, out=tmp_path, teachers=teachers, material=material,
            schedule=Schedule(1, lr=1e-3, warmup=1),
        )  # fmt: skip


def test_a_teacher_of_another_vocabulary_is_refused(folders, tmp_path):
    other = shutil.copytree(folders["sums"], tmp_path / "other")
    text = (other / "tokenizer.json").read_text()
    (other / "tokenizer.json").write_text(text.replace('"a"', '"\\u0100"').replace("Ā", "a"))
    with pytest.raises(UsageError, match="vocabulary"):
        train_distill(config(folders, tmp_path / "run", teachers=(TeacherConfig("x", other),)))


def test_a_teacher_of_more_logits_with_the_same_tokenizer_is_refused(folders, tmp_path):
    made = checkpoint.read_config(folders["sums"])
    checkpoint.synth(replace(made, vocab_size=made.vocab_size + 8), tmp_path / "wider")
    shutil.copy(folders["sums"] / "tokenizer.json", tmp_path / "wider" / "tokenizer.json")
    with pytest.raises(UsageError, match="vocabulary"):
        teachers = (TeacherConfig("x", tmp_path / "wider"),)
        train_distill(config(folders, tmp_path / "run", teachers=teachers))


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan"), float("inf")])
def test_weights_of_teachers_are_finite_and_above_0(weight):
    with pytest.raises(UsageError, match="has weight"):
        TeacherConfig("a", Path("a"), weight=weight)


@pytest.mark.parametrize(
    "teachers",
    [
        (),
        (TeacherConfig("a", "a"), TeacherConfig("a", "b")),
    ],
)
def test_teachers_are_named_apart(folders, tmp_path, teachers):
    with pytest.raises(UsageError):
        config(folders, tmp_path, teachers=teachers)


def test_texts_have_one_teacher(folders, tmp_path):
    with pytest.raises(UsageError, match="one teacher"):
        config(folders, tmp_path, material=Texts((), tmp_path))
    with pytest.raises(UsageError):
        replace(TeacherConfig("a", tmp_path), weight=0.0)
