"""Measurements compute what they say they do, and a profile adds up."""

from __future__ import annotations

import pytest
import torch

from dsv4.chat.model import Model
from dsv4.errors import UsageError
from dsv4.evaluation import machine, profile, speed
from dsv4.evaluation.machine import Ceilings
from dsv4.ops.cpu import kernels

needs_kernels = pytest.mark.skipif(kernels is None, reason="no native kernels here")


def test_a_feed_computes_its_depths(fast: Model) -> None:
    """Deeper continues, shallower starts again; a step is the next id."""
    feed = speed.Feed(fast.transformer, 60)
    feed.fill(40)
    feed.fill(50)
    feed.fill(20)
    assert feed.state.length == 20
    got = feed.step().logits_BTV[0, -1]
    assert feed.state.length == 21
    assert torch.allclose(got, fast.logits(feed.ids[:21])[-1], atol=1e-4)


def test_timings_have_every_repeat_and_progress_counts_every_id(fast: Model) -> None:
    seen: list[int] = []
    timing = speed.prefill(fast.transformer, 30, 3, seen.append)
    assert (timing.kind, timing.size, timing.tokens, len(timing.seconds)) == ("prefill", 30, 30, 3)
    assert seen[-1] == speed.work([30], [], 4, 3) == 90
    assert timing.tokens_per_second == pytest.approx(30 / sorted(timing.seconds)[1])
    seen.clear()
    depths = [3, 0, 50]  # measuring after 0 goes past 3
    timings = list(speed.decode(fast.transformer, depths, 4, 2, seen.append))
    assert [(timing.kind, timing.size) for timing in timings] == [
        ("decode", 0),
        ("decode", 3),
        ("decode", 50),
    ]
    assert all(timing.tokens == 4 and len(timing.seconds) == 2 for timing in timings)
    assert seen[-1] == speed.work([], depths, 4, 2)
    assert timings[0].peak_bytes > 1 << 20


def test_more_than_the_context_is_refused(fast: Model) -> None:
    with pytest.raises(UsageError, match="exceed the context"):
        speed.prefill(fast.transformer, fast.config.max_position_embeddings + 1, 1)


def test_ids_are_the_same_for_every_length() -> None:
    assert speed.random_ids(100, 5) == speed.random_ids(100, 50)[:5]


@needs_kernels
def test_a_profile_adds_up(fast: Model, ceilings: Ceilings) -> None:
    for shown in (
        profile.profile_decode(fast.transformer, 70, 8, ceilings),
        profile.profile_prefill(fast.transformer, 70, 3, ceilings),
    ):
        stages = [row.stage for row in shown.rows]
        named = [name for name, _, _ in kernels.stage_times() if name != "memory"]  # no Engram
        assert stages == [*named, profile.REST]
        assert all(row.seconds > 0 for row in shown.rows)
        assert all((row.bytes > 0) == (row.stage != profile.REST) for row in shown.rows)
        assert shown.floor == pytest.approx(shown.seconds - sum(row.gap for row in shown.rows))
        assert 0 < shown.of_bandwidth <= shown.of_roofline
        assert 0 < shown.python < 1


def test_a_profile_needs_the_clock_of_the_kernels(
    fast: Model, ceilings: Ceilings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(profile, "kernels", None)
    with pytest.raises(UsageError, match="no native kernels"):
        profile.profile_decode(fast.transformer, 0, 1, ceilings)


def test_ceilings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "BUFFER", 1 << 20)
    monkeypatch.setattr(machine, "MATRIX", 64)
    found = machine.ceilings(1, bf16=False)
    assert found.threads == 1
    assert found.best_read_bytes >= found.read_bytes > 1e8 and found.f32_flops > 1e7
    assert found.flops == found.f32_flops and found.bf16_flops == 0


@pytest.mark.parametrize(("rate", "counted"), [(5e9, 0.0), (20e9, 20e9), (300e9, 300e9)])
def test_an_emulated_bfloat16_gemm_is_no_ceiling(
    rate: float, counted: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "_gemm_rate", lambda dtype, size=0: rate)
    assert machine._bf16_rate(100e9) == counted


@needs_kernels
@pytest.mark.parametrize("size", [64, 4096, (1 << 20) + 64, (3 << 20) + 192])
def test_a_read_pass_reads_everything(size: int) -> None:
    data = torch.randint(-(1 << 62), 1 << 62, (size // 8,))
    kernels.set_thread_count(2)
    assert kernels.read_pass(data.data_ptr(), size) == int(data.sum()) % (1 << 64)
