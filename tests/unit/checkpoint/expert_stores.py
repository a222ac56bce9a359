"""Stores of experts for tests, what their experts should be, and a way to hold reads back."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from dsv4.checkpoint import expert_reads
from dsv4.checkpoint.expert_reads import (
    PAGE,
    Files,
    Matrices,
    Span,
    expert_sources,
    slot_pages,
    spans,
)
from dsv4.checkpoint.experts import ExpertStore
from dsv4.checkpoint.plan import make_plan
from dsv4.model.moe import Expert, MoE
from dsv4.model.transformer import Transformer
from dsv4.numerics.quantized import QuantizedTensor, Weight


def store_of(folder: Path, slots: int, **options: bool | int) -> ExpertStore:
    sources = expert_sources(make_plan(folder))
    size = PAGE * max(slot_pages(spans(expert)) for expert in sources.values())
    return ExpertStore(sources, slots * size, **options)


def acquire(store: ExpertStore, layer: int, experts: Sequence[int]) -> list[Matrices]:
    """Acquire, and wait for all; what could not be read leaves nothing acquired."""
    found = store.acquire(layer, experts)
    try:
        while waiting := set(experts) - found.keys():
            found |= store.arrived(layer, waiting)
    except Exception:
        store.release(layer, experts)
        raise
    return [found[expert] for expert in experts]


Numbers = tuple[object, ...]


def raw(weight: Weight) -> Numbers:
    """What a weight is, to the bit: format or dtype, shape, elements and scales."""
    if isinstance(weight, QuantizedTensor):
        return weight.format, raw(weight.data), raw(weight.scale)
    flat = weight.detach().contiguous().view(torch.uint8)
    return weight.dtype, weight.shape, flat.numpy().tobytes()


def mapped(model: Transformer, layer: int, expert: int) -> list[Numbers]:
    blocks = [*model.layers, *model.mtp]
    moe = blocks[layer].ffn
    assert isinstance(moe, MoE)
    module = moe.experts[expert]
    assert isinstance(module, Expert)
    return [raw(weight) for weight in module.matrices()]


def settled(store: ExpertStore) -> None:
    """Wait until nothing is being read."""
    deadline = time.monotonic() + 20
    while any(entry.reading for entry in store._entries.values()):
        assert time.monotonic() < deadline
        time.sleep(0.001)


def in_thread(work: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=work)
    thread.start()
    return thread


class Gate:
    """Holds reads back until it is opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.open = threading.Event()
        self.began: list[Span] = []
        read = Files.read

        def held(files: Files, span: Span, slot: memoryview) -> int:
            self.began.append(span)
            assert self.open.wait(20)
            return read(files, span, slot)

        monkeypatch.setattr(expert_reads.Files, "read", held)

    def wait(self) -> None:
        """Until a read has begun."""
        while not self.began:
            time.sleep(0.001)
