"""`dsv4 train` end to end on a few sentences: train, stop, go on, use the model."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.unit.training.small import small_folder

import dsv4
from dsv4 import checkpoint
from dsv4.cli.main import main
from dsv4.model.weights import weights
from dsv4.numerics.quantized import QuantizedTensor
from dsv4.training.loop import Trainer


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_folder(tmp_path_factory.mktemp("models") / "small")


@pytest.fixture
def corpora(tmp_path: Path) -> Path:
    folder = tmp_path / "corpora"
    folder.mkdir()
    animals = "cat dog fox owl hen cow pig bee ant elk".split()
    texts = [f"The {a} sees the {b}. Then the {b} runs away." for a in animals for b in animals]
    lines = [json.dumps({"text": text}) for text in texts]
    (folder / "animals.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def arguments(corpora: Path, out: Path, tokenizer: Path, config: Path) -> list[str]:
    return [
        *("train", str(out), "--corpora", str(corpora), "--files", "*.jsonl"),
        *("--tokenizer", str(tokenizer), "--preset", str(config)),
        *("--batch-tokens", "128", "--max-length", "64"),
    ]


def test_train_and_use(
    corpora: Path, small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    command = arguments(corpora, out, small / "tokenizer.json", small / "config.json")
    assert main([*command, "--steps", "3"]) == 0
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == [1, 2, 3]
    assert "the trained model" in capsys.readouterr().err
    assert (out / "model" / "loss.png").read_bytes().startswith(b"\x89PNG")
    model = dsv4.load(out / "model")
    assert not model.defaults.thinking  # the documents it saw had none
    assert model.defaults.max_tokens == 400
    assert model.logits([1, 2, 3]).shape == (3, model.config.vocab_size)
    assert model.tokenizer.decode(model.tokenizer.encode("fox")) == "fox"


def test_a_run_that_was_stopped_goes_on(
    corpora: Path, small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    command = arguments(corpora, out, small / "tokenizer.json", small / "config.json")
    assert main([*command, "--steps", "3", "--max-minutes", "0"]) == 0
    shown = capsys.readouterr().err
    assert "stopped after step 1 of 3; run again to go on" in shown
    assert not (out / "model").exists()
    assert main([*command, "--steps", "3"]) == 0
    assert "resuming after step 1" in capsys.readouterr().err
    assert (out / "model" / "config.json").is_file()


def test_an_interrupted_run_says_so_with_its_exit_code(
    corpora: Path, small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = arguments(corpora, tmp_path / "run", small / "tokenizer.json", small / "config.json")
    real = Trainer._train_step

    def interrupted(self: Trainer) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return real(self)

    monkeypatch.setattr(Trainer, "_train_step", interrupted)
    assert main([*command, "--steps", "3"]) == 130
    monkeypatch.setattr(Trainer, "_train_step", real)
    assert main([*command, "--steps", "3"]) == 0


def test_a_tokenizer_can_be_changed_until_something_is_trained(
    corpora: Path, small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    (tmp_path / "broken.json").write_text("{")
    large = dsv4.locate.folder("nano") / "tokenizer.json"
    for wrong in (tmp_path / "broken.json", large):
        assert main([*arguments(corpora, out, wrong, small / "config.json"), "--steps", "1"]) != 0
    assert "has 8192 tokens" in capsys.readouterr().err
    text = (small / "tokenizer.json").read_text()
    other = tmp_path / "other.json"
    other.write_text(text + "\n")
    only = [*arguments(corpora, out, other, small / "config.json"), "--tokenizer-only"]
    assert main(only) == 0
    right = [*arguments(corpora, out, small / "tokenizer.json", small / "config.json")]
    assert main([*right, "--steps", "2", "--max-minutes", "0"]) == 0
    assert (out / "tokenizer.json").read_text() == text
    assert main([*arguments(corpora, out, other, small / "config.json"), "--steps", "2"]) == 2
    assert "a run with another tokenizer" in capsys.readouterr().err
    assert main([*right, "--steps", "2"]) == 0


def test_a_place_that_can_not_be_written_is_named(
    corpora: Path, small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    out = tmp_path / "file" / "run"
    command = arguments(corpora, out, small / "tokenizer.json", small / "config.json")
    assert main(command) == 1
    shown = capsys.readouterr().err
    assert f"{tmp_path / 'file'}" in shown and "bug" not in shown


def test_a_finished_run_exports_its_model_again(
    corpora: Path, small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """So that an export that failed can be repeated."""
    out = tmp_path / "run"
    command = arguments(corpora, out, small / "tokenizer.json", small / "config.json")
    assert main([*command, "--steps", "1"]) == 0
    shutil.rmtree(out / "model")
    capsys.readouterr()
    assert main([*command, "--steps", "1"]) == 0
    assert "the trained model" in capsys.readouterr().err
    assert dsv4.load(out / "model").logits([1]).shape[0] == 1


def test_recipe(corpora: Path, small: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.py"
    recipe.write_text(
        "from dsv4.config import load\n"
        "from dsv4.data.corpora import Source\n"
        "from dsv4.training.config import TrainConfig\n"
        "from dsv4.training.schedule import Schedule\n"
        f"FOLDER = {str(small)!r}\n"
        "def config(corpora, out):\n"
        "    source = Source('animals', '*.jsonl', 1.0, 'CC0')\n"
        "    return TrainConfig(model=load(FOLDER), sources=(source,), corpora=corpora, out=out,\n"
        "        schedule=Schedule(steps=1), tokenizer=FOLDER + '/tokenizer.json',\n"
        "        batch_tokens=128, max_length=64)\n"
    )
    out = tmp_path / "run"
    assert main(["train", str(out), "--corpora", str(corpora), "--recipe", str(recipe)]) == 0
    assert (out / "model" / "config.json").is_file()


@pytest.mark.parametrize(
    ("extra", "code"),
    [
        ([], 2),
        (["--files", "*.txt"], 7),
        (["--recipe", "nowhere.py"], 2),
        (["--recipe", "nowhere.py", "--files", "*"], 2),
        (["--recipe", "nowhere.py", "--batch-tokens", "64"], 2),
        (["--files", "*.jsonl", "--preset", "huge"], 3),
        (["--files", "*.jsonl", "--precision", "int8"], 2),
        (["--files", "*.jsonl", "--optimizer", "sgd"], 2),
        (["--files", "*.jsonl", "--length", "512"], 2),
        (["--files", "*.jsonl", "--length", "512@1.5"], 2),
        (["--files", "*.jsonl", "--dense", "1", "--indexer-steps", "9"], 2),
        (["--files", "*.jsonl", "--init", "nowhere"], 4),
        (["--files", "*.jsonl", "--device", "gpu"], 2),
        (["--files", "*.jsonl", "--seed", "-1"], 2),
        (["--files", "*.jsonl", "--rate", "nan"], 2),
    ],
)
def test_mistakes(corpora: Path, tmp_path: Path, extra: list[str], code: int) -> None:
    assert main(["train", str(tmp_path / "run"), "--corpora", str(corpora), *extra]) == code


def test_recipes_without_a_config(corpora: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.py"
    command = ["train", str(tmp_path / "run"), "--corpora", str(corpora), "--recipe", str(recipe)]
    for content in ("", "def config(corpora, out): return 7"):
        recipe.write_text(content)
        assert main(command) == 2


def test_a_tokenizer_alone(
    corpora: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    config = json.loads((Path(dsv4.locate.folder("nano")) / "config.json").read_text())
    size = {"vocab_size": 310, "engram_compressed_vocab_size": 310}
    (tmp_path / "config.json").write_text(json.dumps(config | size))
    command = ["train", str(out), "--corpora", str(corpora), "--files", "*.jsonl"]
    assert main([*command, "--preset", str(tmp_path / "config.json"), "--tokenizer-only"]) == 0
    assert {path.name for path in out.iterdir()} == {"tokenizer.json"}
    assert "the tokenizer" in capsys.readouterr().err


def test_a_run_goes_on_from_the_weights_of_a_folder(
    corpora: Path, small: Path, tmp_path: Path
) -> None:
    folder = small
    command = ["train", "--corpora", str(corpora), "--files", "*.jsonl", "--steps", "2"]
    command += ["--batch-tokens", "128", "--max-length", "64", "--rate", "0", "--length", "32@0.5"]
    out = tmp_path / "run"
    assert main([*command, str(out), "--init", str(folder), "--piece-mib", "16"]) == 0
    before, after = (dict(weights(checkpoint.load(f))) for f in (folder, out / "model"))
    for name in ("embed.weight", "layers.1.attn.wkv.weight", "layers.1.ffn.experts.2.w1.weight"):
        one, other = (
            w.dequantize() if isinstance(w, QuantizedTensor) else w
            for w in (before[name], after[name])
        )
        assert torch.equal(one, other), name  # a rate of 0, and rounding again changes nothing
    assert (out / "model" / "tokenizer.json").read_bytes() == (
        folder / "tokenizer.json"
    ).read_bytes()
