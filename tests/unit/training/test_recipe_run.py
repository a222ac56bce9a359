"""The recipe of the bundled model from end to end: the smallest size, problems alone."""

import importlib
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.unit.training.small import MEMORY, new_model, read_log

from dsv4 import checkpoint
from dsv4.chat import defaults
from dsv4.data.corpora import Source
from dsv4.encoding.tokenizer import Tokenizer
from dsv4.model.weights import weights
from dsv4.numerics.quantized import QuantizedTensor
from dsv4.tasks.checks import Grade
from dsv4.training import Schedule
from dsv4.training.pretrain import Trained

RECIPES = Path(__file__).parents[3] / "recipes"
PROBLEMS = (
    Source("sums", "tasks:arithmetic", 1, "ours", count=40),
    Source("calls", "tasks:tool_call", 1, "ours", count=5),
)


def rare(check, spans, *, thinking):
    """A grade that random weights get now and then: the share of ASCII in what is said."""
    said = "".join(text for text, _ in spans)
    return Grade(sum(map(str.isascii, said)) / max(len(said), 1))


@pytest.fixture
def stages(monkeypatch):
    """The recipe, reading problems in place of its mix."""
    monkeypatch.syspath_prepend(str(RECIPES))
    module = importlib.import_module("nano_stages")
    monkeypatch.setattr(module, "pretraining", lambda scale: PROBLEMS)
    monkeypatch.setattr(module, "tuning", lambda scale, longest: PROBLEMS)
    monkeypatch.setattr(module, "copying", lambda scale, longest: PROBLEMS)
    monkeypatch.setattr("dsv4.training.task_questions.grade_answer", rare)
    yield module
    for name in ("nano_mix", "nano_practice", "nano_stages"):
        sys.modules.pop(name, None)


def scale(stages):
    """Every stage takes two steps."""

    def practice(*tasks):
        schedule = Schedule(2, lr=1e-2, warmup=1)
        return stages.Practice(tasks, schedule, prompts=2, group=2, context=1536, answers=8)

    return stages.Scale(
        model=replace(MEMORY, vocab_size=520, max_position_embeddings=4096),
        text=1.0,
        pretrain=Schedule(2, warmup=1, mtp=(0.0, 0.0), dense=1.0),
        tune=Schedule(2, warmup=1, dense=0.5, indexer_steps=1),
        copies=Schedule(2, warmup=1),
        copy=Schedule(2, warmup=1),
        reason=practice("arithmetic:off"),
        tools=practice("tool_call:off"),
        distill=practice("arithmetic:off", "tool_call:off", "identity:off"),
        batch_tokens=1024,
        lengths=(1024, 1024),
    )


def run(stages, monkeypatch, out, *options):
    arguments = ["recipe", str(out), "--corpora", str(out / "none"), "--precision", "float32"]
    monkeypatch.setattr(sys, "argv", [*arguments, *options])
    stages.main(scale(stages), "A recipe.")


def kept_of(folder):
    """Engram tables and indexers of a model, as numbers."""
    return {
        name: value.dequantize() if isinstance(value, QuantizedTensor) else value
        for name, value in weights(checkpoint.load(folder))
        if "engram.embed" in name or ".indexer." in name
    }


def test_every_stage_leaves_a_model_and_is_done_once(stages, tmp_path, monkeypatch):
    run(stages, monkeypatch, tmp_path)
    stored = {}
    for name in stages.STAGES:
        folder = tmp_path / name / "model"
        model = checkpoint.load(folder)
        stored[name] = (folder / "model-00001-of-00001.safetensors").read_bytes()
        assert read_log(tmp_path / name)[-1]["step"] == 2
        assert model.config.vocab_size == Tokenizer.from_folder(folder).vocab_size
        assert not defaults.read_defaults(folder).thinking
    assert len({*stored.values()}) == len(stages.STAGES)  # each changed what it was given
    tuned, copied = (kept_of(tmp_path / name / "model") for name in ("tune", "copy"))
    assert len(copied) > 1
    for name, value in copied.items():
        assert torch.equal(value, tuned[name]), name

    def fail(*_):
        raise AssertionError("a finished stage began anew")

    monkeypatch.setattr(stages, "_run", fail)
    run(stages, monkeypatch, tmp_path)


def test_a_stage_alone_is_the_same_stage_and_goes_on(stages, tmp_path, monkeypatch):
    for name in ("pretrain", "tune", "copy-2", "copy-1", "copy", "tools"):
        run(stages, monkeypatch, tmp_path, "--stage", name)
    assert not (tmp_path / "reason").exists()
    with pytest.raises(SystemExit, match="reason: stopped after step 1"):
        run(stages, monkeypatch, tmp_path, "--max-minutes", "0")
    assert not (tmp_path / "reason" / "model").exists()
    run(stages, monkeypatch, tmp_path)
    assert [record["step"] for record in read_log(tmp_path / "reason")] == [1, 2]
    assert (tmp_path / "distill" / "model" / "config.json").is_file()


def test_the_last_copy_begins_with_the_mean_of_the_others(stages, tmp_path):
    models = [new_model(MEMORY, seed) for seed in (1, 2)]
    mean = torch.stack([model.embed.weight.detach() for model in models]).mean(0)
    (tmp_path / "pretrain").mkdir()
    (tmp_path / "pretrain" / "tokenizer.json").write_text("{}")
    tokens = tmp_path / "pretrain" / "tokenizer.json"
    folder = stages.mean([Trained(model, 2, True) for model in models], tokens, tmp_path / "mean")
    stored = checkpoint.load(folder).embed.weight.float()
    assert torch.allclose(stored, mean, rtol=2**-8, atol=0)  # in bfloat16


def test_a_copy_that_stops_stops_the_recipe(stages, tmp_path, monkeypatch):
    for name in ("pretrain", "tune"):
        run(stages, monkeypatch, tmp_path, "--stage", name)
    with pytest.raises(SystemExit, match="copy-1: stopped after step 1"):
        run(stages, monkeypatch, tmp_path, "--stage", "copy", "--max-minutes", "0")
    assert not (tmp_path / "copy-2").exists()
