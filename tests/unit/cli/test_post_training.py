"""`dsv4 rl`, `distill`, `lora` and the merging `export`, on a model that trains in seconds."""

import json

import pytest
import torch
from tests.unit.training.toy_policy import toy_folder

from dsv4 import checkpoint
from dsv4.cli.main import main
from dsv4.model.weights import get_weight, weights
from dsv4.numerics.quantized import QuantizedTensor

SMALL = ["--steps", "1", "--prompts", "2", "--limit", "off=4", "--batch-tokens", "1024"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return toy_folder(tmp_path_factory.mktemp("models") / "toy")


def run(*arguments):
    return main([str(argument) for argument in arguments])


def test_rl_leaves_a_model_its_rollouts_and_metrics(folder, tmp_path, capsys):
    out = tmp_path / "run"
    assert run("rl", folder, out, "--task", "arithmetic:off", "--group", 2, *SMALL) == 0
    assert "the trained model" in capsys.readouterr().err
    assert checkpoint.load(out / "model").config == checkpoint.load(folder).config
    assert (out / "model" / "tokenizer.json").read_bytes() == (
        folder / "tokenizer.json"
    ).read_bytes()
    record = json.loads((out / "metrics.jsonl").read_text().splitlines()[0])
    assert {"reward", "kl", "entropy", "score.arithmetic:off"} <= set(record)
    rows = (out / "rollouts" / "000000.jsonl").read_text().splitlines()
    assert len(rows) == 4 and json.loads(rows[0])["kind"] == "arithmetic:off"


def test_distill_asks_each_teacher_about_its_tasks(folder, tmp_path):
    out = tmp_path / "run"
    teachers = ["--teacher", f"sums={folder}:arithmetic:off", "--teacher", f"rest={folder}"]
    tasks = ["--task", "arithmetic:off", "--task", "strings:off=3"]
    assert run("distill", folder, out, *teachers, "--weight", "rest=0.5", *tasks, *SMALL) == 0
    record = json.loads((out / "metrics.jsonl").read_text().splitlines()[0])
    assert record["loss"] == 0.0
    assert [n for n in record if n.startswith("kl.")] != []


def test_lora_and_its_merge(folder, tmp_path, capsys):
    out, merged = tmp_path / "run", tmp_path / "merged"
    small = ["--epochs", 1, "--batch-tokens", 4096, "--rank", 2]
    assert run("lora", folder, out, "--task", "arithmetic=4", *small) == 0
    assert sorted(p.name for p in (out / "adapter").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    assert run("export", folder, merged, "--adapter", out / "adapter", "--touched", "fp8") == 0
    assert "21 matrices merged" in capsys.readouterr().err
    assert (merged / "tokenizer.json").is_file()
    for (name, old), (_, new) in zip(
        weights(checkpoint.load(folder)), weights(checkpoint.load(merged)), strict=True
    ):
        if isinstance(old, QuantizedTensor) and ".experts." in name and "shared" not in name:
            assert old.data.equal(new.data)


def test_two_merges_and_a_base_that_is_another(folder, tmp_path, capsys):
    """Matrices that the first merge left in bfloat16 stay so in the second."""
    small = ["--task", "arithmetic=4", "--epochs", 1, "--batch-tokens", 4096, "--rank", 2]
    one, two = tmp_path / "one", tmp_path / "two"
    assert run("lora", folder, one, *small, "--target", "attention") == 0
    assert "PEFT does not read" not in capsys.readouterr().err
    merge = ["--touched", "bfloat16", "--adapter"]
    assert run("export", folder, tmp_path / "first", *merge, one / "adapter") == 0
    assert run("lora", tmp_path / "first", two, *small, "--target", "experts") == 0
    assert "PEFT does not read adapters of experts" in capsys.readouterr().err
    assert run("export", tmp_path / "first", tmp_path / "second", *merge, two / "adapter") == 0
    first, second = (checkpoint.load(tmp_path / name) for name in ("first", "second"))
    name = "layers.1.attn.wq_a.weight"
    kept = get_weight(first, name), get_weight(second, name)
    assert kept[0].dtype == kept[1].dtype == torch.bfloat16 and torch.equal(*kept)

    assert run("export", folder, tmp_path / "x", "--adapter", two / "adapter") == 4
    assert "--any-base merges it all the same" in capsys.readouterr().err
    assert run("export", folder, tmp_path / "x", "--adapter", two / "adapter", "--any-base") == 0
    assert run("export", folder, tmp_path / "y", "--any-base") == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["rl", "--task", "nothing"], "there is no task 'nothing'"),
        (["rl", "--task", "arithmetic:loud"], "no effort 'loud'"),
        (["rl", "--task", "arithmetic=-1"], "no finite weight above 0"),
        (["rl", "--task", "arithmetic=nan"], "no finite weight above 0"),
        (["rl", "--task", "arithmetic=inf"], "no finite weight above 0"),
        (["rl", "--task", "arithmetic", "--limit", "high"], "is no limit"),
        (["distill", "--teacher", "math"], "is no teacher"),
        (["distill", "--teacher", "math=MODEL"], "nothing to answer"),
        (["distill", "--teacher", "math=MODEL", "--weight", "code=2"], "no teacher called code"),
        (["distill", "--teacher", "math=MODEL", "--files", "x"], "both --corpora and --files"),
        (
            ["distill", "--teacher", "m=MODEL", "--weight", "m=1", "--weight", "m=3"],
            "teacher m has two weights",
        ),
        (
            ["distill", "--teacher", "m=MODEL", "--corpora", ".", "--files", "tasks:arithmetic"],
            "says no number",
        ),
        (
            [
                "distill",
                "--teacher",
                "math=MODEL",
                "--corpora",
                ".",
                "--files",
                "x",
                "--limit",
                "high=9",
            ],
            "--limit is about answers",
        ),
        (
            [
                "distill",
                "--teacher",
                "math=MODEL",
                "--corpora",
                ".",
                "--files",
                "x",
                "--context",
                "99",
            ],
            "--context is about answers",
        ),
        (
            ["distill", "--teacher", "math=MODEL:arithmetic", "--max-length", "64"],
            "--max-length is about texts",
        ),
        (["lora"], "nothing to learn from"),
        (["lora", "--task", "arithmetic=3", "--target", "heads"], "nothing is called heads"),
    ],
)
def test_mistakes_are_told(folder, tmp_path, capsys, arguments, message):
    assert message in refused(folder, tmp_path / "run", arguments, capsys)


def refused(folder, out, arguments, capsys):
    """What is said to a command with wrong arguments, which does not begin."""
    command, *rest = [part.replace("MODEL", str(folder)) for part in arguments]
    assert run(command, folder, out, *rest) == 2
    assert not (out / "metrics.jsonl").exists()
    return capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["lora", "--task", "arithmetic=3"],
        ["rl", "--task", "arithmetic"],
        ["distill", "--teacher", "math=MODEL:arithmetic"],
    ],
)
def test_several_processes_are_refused(folder, tmp_path, capsys, monkeypatch, arguments):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "in one process" in refused(folder, tmp_path / "run", arguments, capsys)


def test_names_of_files_may_have_an_equals_sign(folder, tmp_path, capsys):
    files = ["--corpora", tmp_path, "--files", "a=b.jsonl"]
    assert run("distill", folder, tmp_path / "out", "--teacher", f"m={folder}", *files) == 7
    assert "no file matches a=b.jsonl" in capsys.readouterr().err


def test_export_touches_nothing_without_an_adapter(folder, tmp_path, capsys):
    assert run("export", folder, tmp_path / "out", "--touched", "fp8") == 2
    assert "--touched is for an adapter" in capsys.readouterr().err
    assert run("export", folder, folder, "--adapter", tmp_path, "--overwrite") == 2
    assert "is the model itself" in capsys.readouterr().err
