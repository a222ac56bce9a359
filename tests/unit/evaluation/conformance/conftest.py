"""A small model with every kind of layer, as a folder that tests may damage copies of."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.conftest import byte_vocabulary
from torch import Tensor

from dsv4 import checkpoint
from dsv4.checkpoint.folder import read_stored
from dsv4.config import CSA, HCA, SWA
from dsv4.presets import preset


@pytest.fixture(scope="session")
def three_layers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `tiny` architecture with one layer of each kind (the first hash-routed) and an MTP
    block. Read-only by agreement."""
    folder = tmp_path_factory.mktemp("verify") / "three"
    vocabulary = byte_vocabulary()
    config = dataclasses.replace(
        preset("tiny"),
        vocab_size=len(vocabulary["added_tokens"]) + len(vocabulary["model"]["vocab"]),
        num_hidden_layers=3,
        compress_ratios=(SWA, CSA, HCA, SWA),
        num_hash_layers=1,
    )
    checkpoint.synth(config, folder, seed=3)
    (folder / "tokenizer.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    return folder


@pytest.fixture
def damaged(three_layers: Path, tmp_path: Path) -> Callable[..., Path]:
    """damaged(name, change) -> a copy of the folder in which the tensor called `name` is what
    `change` makes of it; damaged(config={...}) one with other settings."""

    def build(
        name: str = "", change: Callable[[Tensor], Tensor] | None = None, **files: dict[str, object]
    ) -> Path:
        folder = tmp_path / "damaged"
        shutil.copytree(three_layers, folder)
        if change is not None:
            path = read_stored(folder)[name].file
            tensors = load_file(path)
            tensors[name] = change(tensors[name].clone())
            save_file(tensors, path)
        for stem, values in files.items():
            path = folder / f"{stem}.json"
            old = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
            path.write_text(json.dumps(old | values), encoding="utf-8")
        return folder

    return build


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
