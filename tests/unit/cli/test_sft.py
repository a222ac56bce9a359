"""`dsv4 sft` end to end: from a folder to a folder that answers."""

import json

import pytest
from tests.unit.training.small import small_folder

import dsv4
from dsv4.cli.main import main


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = small_folder(tmp_path_factory.mktemp("models") / "small")
    (made / "generation_config.json").write_text('{"temperature": 0.5}')
    return made


@pytest.fixture(scope="module")
def corpora(tmp_path_factory):
    made = tmp_path_factory.mktemp("corpora")
    lines = [{"prompt": f"What is {i}?", "response": f"{i} is a number."} for i in range(60)]
    (made / "talk.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return made


def test_tune_stop_and_go_on(folder, corpora, tmp_path, capsys):
    out = tmp_path / "run"
    command = [
        *("sft", str(folder), str(out), "--corpora", str(corpora), "--files", "talk.jsonl"),
        *("--heldout", "--task", "strings=8", "--batch-tokens", "512", "--max-length", "128"),
        *("--epochs", "1", "--no-quantise"),
    ]
    assert main([*command, "--max-minutes", "0"]) == 0
    shown = capsys.readouterr().err
    assert "stopped after step 1 of" in shown
    assert not (out / "model").exists()
    assert main(command) == 0
    shown = capsys.readouterr().err
    assert "resuming after step 1" in shown and "validation_loss" in shown
    assert (out / "model" / "loss.png").read_bytes().startswith(b"\x89PNG")
    model = dsv4.load(out / "model")
    assert model.defaults.temperature == 0.5
    assert model.tokenizer.decode(model.tokenizer.encode("fox")) == "fox"
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert records[-1]["loss"] < records[0]["loss"]


@pytest.mark.parametrize(
    ("extra", "code"),
    [
        ([], 2),
        (["--files", "none.jsonl"], 7),
        (["--task", "strings"], 2),
        (["--task", "nothing=3"], 2),
        (["--recipe", "nowhere.py"], 2),
        (["--files", "talk.jsonl", "--recipe", "nowhere.py"], 2),
        (["--files", "talk.jsonl", "--optimizer", "sgd"], 2),
        (["--files", "talk.jsonl", "--precision", "int8"], 2),
        (["--files", "talk.jsonl", "--device", "cuda:77"], 2),
    ],
)
def test_mistakes(folder, corpora, tmp_path, extra, code):
    assert main(["sft", str(folder), str(tmp_path), "--corpora", str(corpora), *extra]) == code
