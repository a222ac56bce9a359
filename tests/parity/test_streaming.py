"""A memory limit changes where experts come from, and no bit of what is computed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dsv4 import checkpoint
from dsv4.chat.model import load
from dsv4.checkpoint.expert_reads import Matrices
from dsv4.checkpoint.experts import ExpertStore
from dsv4.checkpoint.loading import WORKING, resident
from dsv4.errors import UsageError
from dsv4.model.transformer import Transformer
from dsv4.numerics.policy import FAST
from dsv4.ops.cpu.native import native
from dsv4.presets import preset
from tests.parity.models import tokens

pytestmark = pytest.mark.skipif(native is None, reason="no native kernels")

LENGTH, STEPS = 40, 6


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("streaming") / "tiny"
    checkpoint.synth(preset("tiny"), path)
    return path


@torch.no_grad()
def logits(model: Transformer) -> Tensor:
    """A prefill, then single steps, then the prediction block."""
    ids = tokens(model.config, LENGTH + STEPS, 3)
    state = model.new_state()
    outputs = [model(ids[:, :LENGTH], state)]
    outputs += [model(ids[:, i : i + 1], state) for i in range(LENGTH, LENGTH + STEPS)]
    drafted = model.predict_next(outputs[0].streams_BTSD[:, :-1], ids[:, 1:LENGTH])
    return torch.cat([output.logits_BTV for output in (*outputs, drafted)], 1)


@pytest.mark.parametrize("experts", [6, 7, 20])
def test_same_bits(folder: Path, experts: int) -> None:
    """Room for `experts` of 48, of which a prefill needs up to 8 in every layer."""
    want = logits(checkpoint.load(folder, FAST))
    plan = checkpoint.make_plan(folder)
    model = checkpoint.load(folder, FAST)
    with ExpertStore.of(plan, 1 << 30) as whole:
        slot = whole.nbytes // whole.capacity
    with ExpertStore.of(plan, experts * slot) as store:
        assert store.capacity == experts
        model.stream_experts(store)
        assert torch.equal(logits(model), want)
        stats = store.stats
        assert stats.misses > 0 and stats.prefetched > 0
        assert stats.bytes_read > 0


def test_same_bits_however_experts_come(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One by one, in no order of the router's, and every guess is wrong."""
    want = logits(checkpoint.load(folder, FAST))
    model = checkpoint.load(folder, FAST)
    acquire, arrived, prefetch = ExpertStore.acquire, ExpertStore.arrived, ExpertStore.prefetch

    def none_yet(store: ExpertStore, layer: int, experts: Sequence[int]) -> dict[int, Matrices]:
        acquire(store, layer, experts)
        return {}

    def one(store: ExpertStore, layer: int, experts: Iterable[int]) -> dict[int, Matrices]:
        return arrived(store, layer, [max(experts)])

    def wrong(store: ExpertStore, layer: int, experts: Sequence[int]) -> None:
        count = model.config.n_routed_experts
        prefetch(store, layer, [(expert + 1) % count for expert in experts])

    monkeypatch.setattr(ExpertStore, "acquire", none_yet)
    monkeypatch.setattr(ExpertStore, "arrived", one)
    monkeypatch.setattr(ExpertStore, "prefetch", wrong)
    with ExpertStore.of(checkpoint.make_plan(folder), 1 << 20) as store:
        model.stream_experts(store)
        assert torch.equal(logits(model), want)
        assert store.stats.misses > 0


def test_a_limit_at_load(folder: Path) -> None:
    want = logits(checkpoint.load(folder, FAST))
    plan = checkpoint.make_plan(folder)
    model = checkpoint.load(folder, FAST, memory_limit=resident() + WORKING + 2 * plan.nbytes)
    assert torch.equal(logits(model), want)


def test_too_small_a_limit_says_what_is_needed(folder: Path) -> None:
    with pytest.raises(UsageError, match="are too little"):
        checkpoint.load(folder, FAST, memory_limit=1 << 20)


def test_other_policies_cannot_stream(folder: Path) -> None:
    with pytest.raises(UsageError, match="native kernels"):
        load(folder, "exact", memory_limit=1 << 40)
