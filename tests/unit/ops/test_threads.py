"""Threads of the kernels, memory nodes, and sizes given on the command line."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from dsv4.cli.loading import parse_size
from dsv4.errors import UsageError
from dsv4.ops.cpu import threads
from dsv4.ops.cpu.native import native


def test_cores_are_counted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four processors on two cores are two cores; without that knowledge four."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3}, raising=False)
    monkeypatch.setattr(threads, "_CPUS", tmp_path)
    assert threads.cores() == 4
    for cpu in range(4):
        topology = tmp_path / f"cpu{cpu}" / "topology"
        topology.mkdir(parents=True)
        (topology / "physical_package_id").write_text("0\n")
        (topology / "core_id").write_text(f"{cpu // 2}\n")
    assert threads.cores() == 2


@pytest.mark.parametrize(("text", "count"), [("0", 1), ("0-1", 2), ("0,2-3", 3)])
def test_memory_nodes(
    text: str, count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "online").write_text(text + "\n")
    monkeypatch.setattr(threads, "_NODES", tmp_path)
    assert threads.nodes() == count


def test_one_node_needs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "_NODES", tmp_path)
    assert threads.nodes() == 1
    assert not threads.interleave()


@pytest.mark.parametrize(
    ("told", "count"), [("3", 3), ("9999", 1024), ("0", None), ("x", None), ("", None)]
)
def test_what_the_environment_says(
    monkeypatch: pytest.MonkeyPatch, told: str, count: int | None
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", told)
    assert threads.default() == (threads.cores() if count is None else count)


@pytest.mark.skipif(native is None, reason="no native kernels")
def test_the_number_of_threads_is_taken() -> None:
    before = native.thread_count()
    try:
        assert threads.use(3) == 3 == native.thread_count()
        assert threads.use(None) == threads.default() == native.thread_count()
    finally:
        native.set_thread_count(before)


@pytest.mark.skipif(native is None, reason="no native kernels")
@pytest.mark.parametrize("count", [2, 3, 8])
def test_every_task_is_done_however_late_threads_come(count: int) -> None:
    """Thousands of short calls in a row, on more threads than there are cores: many threads come
    when the call, or the one after it, is over. A task that is left out leaves NaN in its rows."""
    weight = torch.randn(1500, 64)
    matrix = native.Matrix(weight.data_ptr(), 0, 1500, 64, 0)
    x = torch.randn(3, 64)
    want = x.bfloat16().float() @ weight.T
    before = native.thread_count()
    try:
        threads.use(count)
        y = torch.empty(3, 1500)
        for tokens in [1, 3] * 1000:
            y.fill_(torch.nan)
            native.multiply(x.data_ptr(), tokens, matrix, y.data_ptr())
            assert torch.allclose(y[:tokens], want[:tokens], rtol=1e-4, atol=1e-4)
            assert bool(y[tokens:].isnan().all())
    finally:
        native.set_thread_count(before)


@pytest.mark.parametrize("count", [0, -1, 5000])
def test_a_silly_number_of_threads_is_refused(count: int) -> None:
    with pytest.raises(UsageError, match="out of range"):
        threads.use(count)


@pytest.mark.parametrize(
    ("text", "size"),
    [("0", 0), ("512", 512), ("12G", 12 << 30), ("1.5 GiB", 3 << 29), ("800m", 800 << 20)],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "G", "-3G", "12 X", "1e9"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(UsageError, match="is no size"):
        parse_size(text)
