"""`dsv4 bench` as a user calls it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dsv4.cli.main import main
from dsv4.evaluation import distance, machine
from dsv4.evaluation.machine import Ceilings
from dsv4.ops.cpu import kernels

SMALL = ["--threads", "1", "--tokens", "4", "--repeat", "2"]


@pytest.fixture(autouse=True)
def _machine(ceilings: Ceilings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "ceilings", lambda threads, **_: ceilings)
    # The memory is three times as fast after a measurement as before.
    monkeypatch.setattr(machine, "_read_rates", lambda threads: (3 * ceilings.read_bytes, 4e10))


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_speed(tiny_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ["--prefill", "20,9", "--decode", "0,30"]
    assert main(["bench", str(tiny_folder), *sizes, *SMALL, "--json"]) == 0
    results = lines(capsys)
    assert [(row.get("prefill"), row.get("decode")) for row in results] == [
        (20, None),
        (9, None),
        (None, 0),
        (None, 30),
    ]
    for row in results:
        assert row["numerics"] == "fast" and row["threads"] == 1
        assert row["ceilings"]["read_bytes_per_second"] == 2 * 10**10
        assert len(row["seconds"]) == 2 and row["tokens_per_second"] > 0
        assert row["floor"]["bytes"] > 0 and row["peak_rss_bytes"] > 0
        reached = row["tokens_per_second"] / row["floor"]["tokens_per_second"]
        assert row["of_floor"] == pytest.approx(reached, rel=0.02, abs=1e-3)


def test_speed_as_a_table(tiny_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["bench", str(tiny_folder), "--prefill", "9", "--decode", "", *SMALL]
    assert main([*arguments, "--numerics", "exact"]) == 0
    out = capsys.readouterr().out
    assert "numerics exact" in out and "reads 20.0 GB/s (at best 40.0)" in out
    assert "prefill 9" in out and "decode" not in out


@pytest.mark.skipif(kernels is None, reason="no native kernels here")
def test_explain(tiny_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["bench", str(tiny_folder), "--prefill", "9", "--decode", "40", *SMALL]
    assert main([*arguments, "--explain", "--json"]) == 0
    prefill, decode = lines(capsys)
    assert prefill["prefill"] == 9 and decode["decode"] == 40
    for row in (prefill, decode):
        stages = row["stages"]
        assert sum(stage["ms"] for stage in stages) == pytest.approx(row["ms"], abs=0.01)
        assert sum(stage["bytes"] for stage in stages) == pytest.approx(row["bytes"], abs=12)
    assert main([*arguments, "--explain"]) == 0
    out = capsys.readouterr().out
    assert "a step after 40 tokens" in out and "gate_up" in out and "Python and dispatch" in out


def test_check(
    tiny_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["bench", str(tiny_folder), "--check", "--length", "12", *SMALL]
    assert main([*arguments, "--json"]) == 0
    (report,) = lines(capsys)
    assert report["tokens"] == 12 and report["decoded"] == 4 and len(report["pairs"]) == 6
    monkeypatch.setattr(distance, "BOUND", 0.0)
    assert main([*arguments, "--tokens", "1"]) == 1
    shown = capsys.readouterr()
    assert "relative L2" in shown.out
    assert "failed: prefill: fast is" in shown.err


def test_check_of_a_text(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "text.txt"
    text.write_text("a text of some length", encoding="utf-8")
    arguments = ["bench", str(tiny_folder), "--check", "--text", str(text), *SMALL, "--json"]
    assert main(arguments) == 0
    (report,) = lines(capsys)
    assert report["tokens"] == 1 + len("a text of some length")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--prefill", "0"], "'0' is no list of sizes"),
        (["--decode", "1,x"], "'1,x' is no list of sizes"),
        (["--prefill", "", "--decode", ""], "nothing to measure"),
        (["--explain", "--check"], "two commands"),
        (["--text", "x"], "belong to --check"),
        (["--numerics", "quick"], "numerics 'quick' is unknown"),
    ],
)
def test_wrong_arguments(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "nano", *arguments]) == 2
    assert message in capsys.readouterr().err
