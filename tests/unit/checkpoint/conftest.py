"""A small checkpoint on disk, one copy for each test that wants to spoil it."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dsv4 import checkpoint

# What the tests of this folder share is a plain module beside them.
sys.path.insert(0, str(Path(__file__).parent))

from checkpoint_folders import MICRO
from expert_stores import Gate


@pytest.fixture(scope="session")
def intact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `micro` architecture with random weights. Read-only by agreement."""
    folder = tmp_path_factory.mktemp("checkpoint") / "micro"
    checkpoint.synth(MICRO, folder, seed=3)
    return folder


@pytest.fixture
def folder(intact: Path, tmp_path: Path) -> Path:
    """A copy of `intact` to do anything with."""
    return Path(shutil.copytree(intact, tmp_path / "copy"))


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    gate = Gate(monkeypatch)
    yield gate
    gate.open.set()
