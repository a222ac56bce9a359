"""Which folder a model argument means."""

from __future__ import annotations

from pathlib import Path

import pytest

from dsv4 import locate
from dsv4.errors import CheckpointError


@pytest.fixture
def roots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    made = tmp_path / "models", tmp_path / "bundled"
    for root in made:
        for name in ("nano", "other"):
            (root / name).mkdir(parents=True)
            (root / name / "config.json").write_text("{}")
    monkeypatch.setattr(locate, "bundled_roots", lambda: made)
    return made


def test_the_repository_wins_over_the_installed_copy(roots: tuple[Path, Path]) -> None:
    assert locate.folder("nano") == roots[0] / "nano"
    assert list(locate.bundled()) == ["nano", "other"]


def test_a_folder_wins_over_a_name(
    roots: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = tmp_path / "here" / "nano"
    mine.mkdir(parents=True)
    (mine / "config.json").write_text("{}")
    monkeypatch.chdir(mine.parent)
    assert locate.folder("nano").resolve() == mine


def test_what_is_no_model(roots: tuple[Path, Path], tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("x")
    for argument, message in (
        (str(tmp_path), "no config.json"),
        (str(file), "is a file"),
        ("nonsense", "no model called"),
        ("/no/such/folder", "no model called"),
        ("../a/b", "no model called"),
    ):
        with pytest.raises(CheckpointError, match=message):
            locate.folder(argument)


def test_a_hub_id_without_a_network(roots: tuple[Path, Path]) -> None:
    with pytest.raises(CheckpointError, match="cannot fetch deepseek-ai/No-Such-Model"):
        locate.folder("deepseek-ai/No-Such-Model")
