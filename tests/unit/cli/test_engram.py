"""`dsv4 engram`: the same model, with a memory that can be trained."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dsv4.chat.model import load
from dsv4.cli.main import main


def test_the_new_model_is_the_old_one(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    options = ["--layers", "1,3", "--rows", "97", "--heads", "2", "--channels", "16"]
    assert main(["engram", str(tiny_folder), str(out), *options]) == 0
    assert "layers 1,3" in capsys.readouterr().err
    before, after = load(tiny_folder), load(out)
    ids = list(range(50))
    assert after.logits(ids).equal(before.logits(ids))
    assert after.tokenizer.vocab_size == before.tokenizer.vocab_size
    engram = after.config.engram
    assert engram is not None and (engram.layer_ids, engram.max_ngram_size) == ((1, 3), 3)
    canonical = after.tokenizer.canonical_ids(after.config.vocab_size)
    assert engram.compressed_vocab_size == len(set(canonical)) < after.config.vocab_size

    assert main(["inspect", str(out), "--json"]) == 0
    read = json.loads(capsys.readouterr().out)
    assert read["engram"] == {
        "layers": [1, 3],
        "rows": list(engram.rows),
        "rows_per_token": 8,
        "bytes_per_token": 8 * 17,
    }
    assert read["parameters"]["parts"]["tables"] == 16 * sum(engram.rows)
    assert main(["inspect", str(out)]) == 0
    assert "a token reads 8 of" in capsys.readouterr().out
    assert main(["engram", str(out), str(tmp_path / "twice")]) == 2
    assert "already" in capsys.readouterr().err


@pytest.mark.parametrize("layers", ["1,x", "", "9", "3,1"])
def test_layers_that_are_none(
    layers: str, tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["engram", str(tiny_folder), str(tmp_path / "o"), "--layers", layers]) in (2, 3)
    assert "layer" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()
