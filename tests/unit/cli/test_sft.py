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


def test_a_recipe_says_how_and_the_command_what(folder, corpora, tmp_path, capsys):
    recipe, out = tmp_path / "recipe.py", tmp_path / "run"
    recipe.write_text(
        "from pathlib import Path\n"
        "from dsv4.data.corpora import Source\n"
        "from dsv4.training import Schedule\n"
        "from dsv4.training.sft import SftConfig\n"
        "def config(corpora, out):\n"
        "    talk = Source('talk', 'talk.jsonl', 1.0, 'CC0')\n"
        "    return SftConfig(init=Path('nowhere'), sources=(talk,), corpora=corpora, out=out,\n"
        "        schedule=Schedule(2, warmup=1), epochs=None, batch_tokens=128, max_length=64)\n"
    )
    command = ["sft", str(folder), str(out), "--corpora", str(corpora), "--recipe", str(recipe)]
    for extra in (["--rate", "9"], ["--freeze", "x"], ["--no-quantise"], ["--batch-tokens", "64"]):
        assert main([*command, *extra]) == 2
        told = "--quantise" if extra[0] == "--no-quantise" else extra[0]
        assert f"{told} is for runs without a recipe" in capsys.readouterr().err
    assert not out.exists()
    assert main([*command, "--checkpoint-every", "1"]) == 0
    assert (out / "model" / "config.json").is_file()


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
