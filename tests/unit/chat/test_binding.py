"""What decoding states are bound to: nobody may go on from the numbers of another memory."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from dsv4 import checkpoint, config
from dsv4.chat.model import load
from dsv4.encoding.tokenizer import Tokenizer
from dsv4.engram import EngramConfig
from dsv4.model.retrofit import fit_engram

Tensors = dict[str, Tensor]


@pytest.fixture(scope="module")
def memories(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`tiny_folder` with an Engram whose token map has to come from the tokenizer."""
    folder: Path = tmp_path_factory.mktemp("binding") / "model"
    tiny = config.load(tiny_folder)
    tiny = replace(tiny, engram=EngramConfig((1,), 3, 2, 32, 50_000, 99))
    canonical = Tokenizer.from_folder(tiny_folder).canonical_ids(tiny.vocab_size)
    checkpoint.synth(fit_engram(tiny, canonical), folder)
    shutil.copyfile(tiny_folder / "tokenizer.json", folder / "tokenizer.json")
    edit(folder, lambda tensors: tensors.pop("ngrams.token_map"))
    return folder


def edit(folder: Path, change: Callable[[Tensors], object]) -> None:
    (path,) = folder.glob("*.safetensors")
    tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
    change(tensors)
    save_file(tensors, path)
    (folder / "model.safetensors.index.json").unlink(missing_ok=True)


def binding(folder: Path) -> bytes:
    return load(folder, "exact").binding


def test_the_token_map_comes_from_the_tokenizer(memories: Path, tmp_path: Path) -> None:
    model = load(memories)
    assert model.transformer.ngrams is not None
    canonical = model.tokenizer.canonical_ids(model.config.vocab_size)
    assert model.transformer.ngrams.token_map.tolist() == canonical
    shutil.copytree(memories, tmp_path / "copy")
    assert binding(tmp_path / "copy") == model.binding
    edit(tmp_path / "copy", lambda t: t.update({"ngrams.token_map": torch.tensor(canonical)}))
    stored = load(tmp_path / "copy")
    assert stored.logits([1, 2, 3]).equal(model.logits([1, 2, 3]))


def other_map(folder: Path) -> None:
    """Two tokens that were one are two, and two others one: as many as before."""
    path = folder / "tokenizer.json"
    values = json.loads(path.read_text())
    vocabulary = values["model"]["vocab"]
    vocabulary["a"], vocabulary["!"] = vocabulary["!"], vocabulary["a"]
    path.write_text(json.dumps(values))


def other_rows(folder: Path) -> None:
    def change(tensors: Tensors) -> None:
        table = tensors["layers.1.engram.embed.weight"].view(torch.uint8)
        table[::50] ^= 128

    edit(folder, change)


def other_multipliers(folder: Path) -> None:
    path = folder / "config.json"
    values = json.loads(path.read_text())
    values["engram_multipliers"][0][0] += 2
    path.write_text(json.dumps(values))


@pytest.mark.parametrize("change", [other_map, other_rows, other_multipliers])
def test_another_memory_shares_nothing(
    memories: Path, tmp_path: Path, change: Callable[[Path], None]
) -> None:
    shutil.copytree(memories, tmp_path / "other")
    change(tmp_path / "other")
    assert binding(tmp_path / "other") != binding(memories)
