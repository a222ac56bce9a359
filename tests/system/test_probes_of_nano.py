"""`dsv4 verify URL` against the bundled model: nothing is wrong with it, and what was planted in
front of it is found."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.serving import served

import dsv4
from dsv4.cli.main import main


@pytest.fixture(scope="module")
def base() -> Iterator[str]:
    with served(dsv4.Engine(dsv4.load("nano", "fast"))) as address:
        yield address


def test_what_is_quickly_asked(base: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", base, "--only", "refusals,usage,encoding,markup"]) == 0
    said = capsys.readouterr().out
    assert "passed: 0 errors, 0 warnings" in said
    assert "12 of 12 prompts have as many tokens as our encoder writes" in said
    assert "10 of 10 mistakes were refused" in said


@pytest.mark.slow
def test_everything_within_five_minutes(
    base: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    begin = time.monotonic()
    page = tmp_path / "page.html"
    assert main(["verify", base, "--html", str(page)]) == 0
    assert time.monotonic() - begin < 300
    said = capsys.readouterr().out
    assert "passed: 0 errors, 0 warnings" in said and "found by length mod 4" in said
    assert "\n  0 requests still run" in said
    assert "What was not looked at" in page.read_text(encoding="utf-8")


@pytest.mark.slow
def test_guesses_change_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    model = dsv4.load("nano", "fast")
    with (
        served(dsv4.Engine(model, speculation="on")) as guessing,
        served(dsv4.Engine(model, speculation="off")) as plain,
    ):
        options = ["--only", "speculation", "--speculation-off", plain]
        assert main(["verify", guessing, *options]) == 0
    said = capsys.readouterr().out
    assert "speculation: 1.00" in said and "it guessed meanwhile: 0" not in said
