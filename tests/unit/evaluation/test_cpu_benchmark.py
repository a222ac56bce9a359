"""The plan and the report of benchmarks/cpu.py, on made-up measurements."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

FOLDER = Path(__file__).parents[3] / "benchmarks"


@pytest.fixture
def cpu(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    # At the end: a file there has the name of a package.
    monkeypatch.setattr(sys, "path", [*sys.path, str(FOLDER)])
    return importlib.import_module("cpu")


def record(engine: str, kind: str, size: int, rate: float, number: int = 1) -> dict[str, Any]:
    tokens = size if kind == "prefill" else 10
    made = {"round": number, "kind": kind, "size": size, "engine": engine, "version": "1"}
    made |= {"tokens": tokens, "seconds": [tokens / rate], "peak_rss_bytes": 1 << 30}
    return made | ({"floor_bytes": 10**8} if engine == "dsv4" else {})


COMMON = {"run": "x", "machine": "a machine", "model": "bench", "threads": 2, "date": "2026-01-02"}
CEILINGS = {"kind": "ceilings", "read_bytes": 2e10, "f32_flops": 1e11, "bf16_flops": 0.0}
RECORDS = [
    COMMON | made
    for made in (
        CEILINGS | {"round": 1},
        record("dsv4", "prefill", 512, 300),
        record("dsv4", "prefill", 512, 500, 2),
        record("llama.cpp", "prefill", 512, 100),
        record("dsv4", "decode", 0, 120) | {"read_bytes": 1.6e10},
        record("dsv4", "decode", 8192, 100),
        record("llama.cpp", "decode", 0, 40),
        {"round": 1, "engine": "llama.cpp", "kind": "decode", "size": 8192, "skipped": "too long"},
    )
]


def test_engines_alternate_and_rounds_turn_their_order(cpu: ModuleType) -> None:
    found = cpu.pieces(2, ["dsv4", "llama.cpp"], [512], [0])
    assert [(piece.round, piece.kind, piece.engine) for piece in found] == [
        (1, "prefill", "dsv4"),
        (1, "prefill", "llama.cpp"),
        (1, "decode", "dsv4"),
        (1, "decode", "llama.cpp"),
        (2, "prefill", "llama.cpp"),
        (2, "prefill", "dsv4"),
        (2, "decode", "llama.cpp"),
        (2, "decode", "dsv4"),
    ]


def test_finished_pieces_are_kept(cpu: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "results" / "machine.jsonl"
    first = cpu.Results(path, COMMON)
    first.add(record("dsv4", "decode", 8, 100))
    again = cpu.Results(path, COMMON)
    assert again.has(cpu.Piece(1, "decode", 8, "dsv4"))
    assert not again.has(cpu.Piece(2, "decode", 8, "dsv4"))
    assert cpu.Results(path, COMMON | {"run": "y"}).records == []


def test_what_would_take_too_long_is_judged_by_the_longest_prompt(cpu: ModuleType) -> None:
    piece = cpu.Piece(1, "decode", 8000, "llama.cpp")
    assert cpu.too_long(piece, RECORDS, limit=90) is None
    assert cpu.too_long(piece, RECORDS, limit=70) == "8000 tokens at 100.0/s take longer than 70 s"
    assert cpu.too_long(cpu.Piece(1, "decode", 8000, "transformers"), RECORDS, limit=1) is None


def test_the_table_has_medians_ratios_and_the_floor(cpu: ModuleType) -> None:
    text = cpu.cpu_report.table(RECORDS)
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert rows[0] == "|  | prefill 512 | decode @0 | decode @8K | peak memory |"
    assert rows[2:] == [
        "| dsv4 (1) | 400.0 | 120.0 | 100.0 | 1.00 GiB |",
        "| llama.cpp (1) | 100.0 | 40.0 | - | 1.00 GiB |",
        "| dsv4 / llama.cpp | 4.00 x | 3.00 x | - |  |",
        "| dsv4, of the bandwidth floor |  | 75 % | 50 % |  |",
    ]
    assert text.endswith("- llama.cpp, decode @8K: too long")


def test_the_picture(cpu: ModuleType, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    image = tmp_path / "picture.png"
    cpu.cpu_report.plot(RECORDS, image)
    assert image.read_bytes().startswith(b"\x89PNG")
