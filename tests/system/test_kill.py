"""An engine that is killed at any moment, again and again, never answers a wrong token."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dsv4.ops.fused import available

ROOT = Path(__file__).resolve().parents[2]


def loop(folder: Path, kills: int, seed: int) -> dict[str, int]:
    if not available():
        pytest.skip("no native kernels: other policies promise no equal bits")
    command = [sys.executable, str(Path(__file__).parent / "kill_loop.py"), str(folder)]
    done = subprocess.run(
        [*command, str(kills), str(seed)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    counts: dict[str, int] = json.loads(done.stdout)
    assert counts["wrong"] == 0
    return counts


def test_killed_at_any_moment(tmp_path: Path) -> None:
    counts = loop(tmp_path, 40, 1)
    assert counts["killed"] > 20
    assert counts["cached"] > 1000, "what survived was not used"


@pytest.mark.slow
def test_killed_hundreds_of_times(tmp_path: Path) -> None:
    assert loop(tmp_path, 400, 2)["killed"] > 200
