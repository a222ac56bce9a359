"""The server under load: many clients at once, the worst among them, and after it nothing is left.

The storm is that of benchmarks/load.py; `make slow` blows harder.
"""

from __future__ import annotations

import asyncio
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from benchmarks import storm
from benchmarks.load import port_of, server

from dsv4.ops.fused import available

SMALL = ("--kv-memory", "12M", "--running", "12", "--queue", "70")
"""What cannot hold all that comes: some make way, some are sent away for a while."""


@pytest.fixture(autouse=True)
def _kernels() -> None:
    if not available():
        pytest.skip("no native kernels: other policies promise no equal bits")


def blow(folder: Path, log: Path, *, requests: int, at_once: int, seed: int) -> dict[str, Any]:
    with server(str(folder), log, *SMALL) as (process, port):
        seen = asyncio.run(
            storm.storm(
                port,
                requests=requests,
                at_once=at_once,
                model="tiny",
                context=800,
                process=process.pid,
                seed=seed,
            )
        )
    assert seen["problems"] == []
    logged = log.read_text(encoding="utf-8")
    assert "ERROR" not in logged and "Traceback" not in logged, logged
    return seen


def test_a_storm_leaves_nothing_behind(tiny_folder: Path, tmp_path: Path) -> None:
    seen = blow(tiny_folder, tmp_path / "log", requests=110, at_once=100, seed=1)
    assert seen["answers_compared"] > 50
    assert seen["refused_and_sent_again"] > 0, "the queue was never full"
    assert seen["fullest_cache"] > 0.3
    assert seen["outcomes"]["leaves midway: left"] > 0
    assert seen["health_ms"]["p99"] < 1000


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 6))
def test_storms(tiny_folder: Path, tmp_path: Path, seed: int) -> None:
    blow(tiny_folder, tmp_path / "log", requests=600, at_once=200, seed=seed)


@contextmanager
def killed(folder: Path, kept: Path, log: Path) -> Iterator[int]:
    """A server that keeps what it computes in `kept`, and is killed in the end."""
    command = [
        sys.executable,
        "-m",
        "dsv4",
        "serve",
        str(folder),
        "--port",
        "0",
        "--kv-folder",
        str(kept),
    ]
    with log.open("wb") as file, subprocess.Popen(command, stderr=file) as process:
        try:
            yield port_of(process, log)
        finally:
            process.send_signal(signal.SIGKILL)


def test_killed_under_load_it_answers_the_same_again(tiny_folder: Path, tmp_path: Path) -> None:
    draw = random.Random(3)
    asked = storm.questions(draw, 16, model="tiny", context=1200)

    async def all_of(port: int, seconds: float) -> list[storm.Seen]:
        tasks = [asyncio.create_task(storm.ask(port, one, "whole", draw)) for one in asked]
        done, cut = await asyncio.wait(tasks, timeout=seconds)
        for task in cut:
            task.cancel()
        return [task.result() if task in done else storm.Seen() for task in tasks]

    with killed(tiny_folder, tmp_path / "kept", tmp_path / "log") as port:
        first = asyncio.run(all_of(port, 1.5))
    with killed(tiny_folder, tmp_path / "kept", tmp_path / "log") as port:
        again = asyncio.run(all_of(port, 60))
        metrics = asyncio.run(storm.get(port, "/metrics")).decode()
    with killed(tiny_folder, tmp_path / "new", tmp_path / "log") as port:
        fresh = asyncio.run(all_of(port, 60))
    assert any(not seen.outcome for seen in first), "it was killed too late"
    (hits,) = (line for line in metrics.splitlines() if "prefix_cache_hits_total{" in line)
    assert float(hits.split()[-1]) > 0
    assert {seen.outcome for seen in [*again, *fresh]} == {"answered"}
    assert [seen.said for seen in again] == [seen.said for seen in fresh]
    told = [(a.said, b.said) for a, b in zip(first, fresh, strict=True) if a.outcome == "answered"]
    assert all(a == b for a, b in told)
