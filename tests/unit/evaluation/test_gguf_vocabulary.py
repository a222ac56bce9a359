"""benchmarks/vocabulary.py: a tokenizer.json as llama.cpp wants it."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType

import pytest

from dsv4.encoding.control import ASSISTANT, DSML, THINK_OPEN, USER
from dsv4.encoding.tokenizer import Tokenizer
from dsv4.errors import CheckpointError

ROOT = Path(__file__).parents[3]
NANO = ROOT / "models/nano"


@pytest.fixture
def vocabulary(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("vocabulary")


def edited(folder: Path, **changes: object) -> Path:
    """A folder with nano's tokenizer.json, of which the model or the pre-tokenizer was changed."""
    spec = json.loads((NANO / "tokenizer.json").read_text(encoding="utf-8"))
    for key, value in changes.items():
        spec[key] = value
    (folder / "tokenizer.json").write_text(json.dumps(spec), encoding="utf-8")
    return folder


def test_every_id_of_the_model_has_a_token(vocabulary: ModuleType) -> None:
    made = vocabulary.read_vocabulary(NANO, 8200)
    tokenizer = Tokenizer.from_folder(NANO)
    assert len(made.tokens) == len(made.kinds) == 8200
    assert made.tokens[8199] == "[PAD8199]" and made.kinds[8199] == vocabulary.UNUSED
    assert (made.tokens[made.bos_id], made.kinds[made.bos_id]) == (
        "<｜begin▁of▁sentence｜>",
        vocabulary.CONTROL,
    )
    for token, kind in (
        (USER, vocabulary.CONTROL),
        (ASSISTANT, vocabulary.CONTROL),
        (THINK_OPEN, vocabulary.USER_DEFINED),
        (DSML, vocabulary.USER_DEFINED),
    ):
        index = tokenizer.control_id(token)
        assert (made.tokens[index], made.kinds[index]) == (token, kind)
    (the,) = tokenizer.encode(" the")
    assert (made.tokens[the], made.kinds[the]) == ("Ġthe", vocabulary.NORMAL)


def test_merges_are_pairs_with_a_space(vocabulary: ModuleType) -> None:
    made = vocabulary.read_vocabulary(NANO, 8192)
    assert made.merges[:2] == ["Ġ t", "h e"]
    known = set(made.tokens)
    assert all("".join(merge.split(" ")) in known for merge in made.merges)


def test_texts_that_llama_cpp_would_cut_otherwise(vocabulary: ModuleType, tmp_path: Path) -> None:
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    with pytest.raises(CheckpointError, match="cuts texts otherwise"):
        vocabulary.read_vocabulary(edited(tmp_path, pre_tokenizer=byte_level), 8192)


def test_digits_that_would_be_merged(vocabulary: ModuleType, tmp_path: Path) -> None:
    """Cut one by one by the file: three at once are another text if there are tokens of two."""
    model = json.loads((NANO / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    last = max(model["vocab"], key=model["vocab"].get)
    del model["vocab"][last]
    model["merges"] = [*model["merges"][:-1], ["1", "2"]]
    model["vocab"]["12"] = len(model["vocab"])
    with pytest.raises(CheckpointError, match="cuts texts otherwise"):
        vocabulary.read_vocabulary(edited(tmp_path, model=model), 8192)
