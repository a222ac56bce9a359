"""A memory limit changes where experts and Engram tables come from, no bit of what is computed."""

from __future__ import annotations

import gc
import os
import random
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from dsv4 import checkpoint, ops
from dsv4.chat.model import load
from dsv4.checkpoint import tables
from dsv4.checkpoint.expert_reads import Matrices
from dsv4.checkpoint.experts import ExpertStore
from dsv4.checkpoint.loading import WORKING, resident
from dsv4.checkpoint.tables import TableStore
from dsv4.engine.core import Core
from dsv4.engine.forward import forward
from dsv4.engine.memory import Memory
from dsv4.engine.request import Event, Generation, Token
from dsv4.engine.sampler import GREEDY
from dsv4.engine.speculation import Mode
from dsv4.engram import EngramConfig
from dsv4.errors import CheckpointError, UsageError
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


@pytest.fixture(scope="module")
def memories(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with two tables of 24,000 rows, whose channels are no multiple of 32."""
    path: Path = tmp_path_factory.mktemp("streaming") / "memories"
    engram = EngramConfig((1, 3), 3, 4, 40, 3000, 400)
    checkpoint.synth(replace(preset("tiny"), engram=engram), path)
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


def test_same_bits_with_tables_on_disk(memories: Path) -> None:
    """Single steps, a prefill whose rows take several reads, and what was read ahead of it."""
    want = logits(checkpoint.load(memories, FAST))
    model = checkpoint.load(memories, FAST)
    plan = checkpoint.make_plan(memories)
    with ExpertStore.of(plan, 1 << 30) as experts:
        model.stream_experts(experts)
        assert torch.equal(logits(model), want)
        tables = TableStore.of(plan)
        model.stream_tables(tables)
        assert torch.equal(logits(model), want)
        ids = tokens(model.config, LENGTH + STEPS, 3)[0].tolist()
        found = torch.cat([part for _, part in forward(model, ids, chunk=17, decode=STEPS)])
        assert torch.equal(found, want[0, : LENGTH + STEPS])
        tables.close()


def test_what_was_read_ahead_is_not_read_again(
    memories: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    place = tables.read_places

    def counted(file: int, places: Tensor, out: Tensor) -> None:
        asked.append(places.numel())
        place(file, places, out)

    monkeypatch.setattr(tables, "read_places", counted)
    model = checkpoint.load(memories, FAST)
    store = TableStore.of(checkpoint.make_plan(memories))
    model.stream_tables(store)
    ids, state = torch.tensor([7, 7, 7, 7, 9]), model.new_state()
    with torch.no_grad():
        model.read_ahead(ids[:3], state)
        model.read_ahead(ids, state, 3)
        model.read_ahead(ids[:3], state)
        model(ids[None, :3], state)
        model(ids[None, 3:], state)
    # Rows and scales of two tables, once for each part; the second and third 7 share a bigram.
    store.close()
    assert len(asked) == 2 * 2 * 2
    assert sorted(asked) == [16] * 4 + [20] * 4


def test_what_could_not_be_read_ahead_is_tried_again(
    memories: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, place = torch.tensor([[[23_000, 1, 2], [1, 5, 23_000]]]), tables.read_places

    def failing(file: int, places: Tensor, out: Tensor) -> None:
        raise OSError(5, "Input/output error")

    store = TableStore.of(checkpoint.make_plan(memories))
    want = store.submit(0, rows).wait()
    monkeypatch.setattr(tables, "read_places", failing)
    store.read_ahead(0, rows)
    with pytest.raises(CheckpointError, match="Input/output error"):
        store.submit(1, rows).wait()  # by then the others have failed as well
    monkeypatch.setattr(tables, "read_places", place)
    assert torch.equal(store.submit(0, rows).wait(), want)
    store.close()


def test_what_is_read_ahead_has_a_bound(memories: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "MOST_AHEAD", 1000)
    store = TableStore.of(checkpoint.make_plan(memories))
    for first in range(100):
        store.read_ahead(0, torch.tensor([[[first, first + 200]]]))
    kept = [ticket.nbytes for ticket in store._ahead.values()]
    assert kept and sum(kept) == store._ahead_bytes <= 1000 < sum(kept) + kept[0]
    (last,) = store._ahead.keys() & {(0, torch.tensor([99, 299]).numpy().tobytes())}
    store.submit(0, torch.tensor([[[99, 299]]]))
    assert last not in store._ahead and store._ahead_bytes == sum(kept[1:])
    store.close()


def test_files_are_closed_if_one_cannot_be_opened(
    memories: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[int] = []
    begin = os.open

    def failing(path: Path, flags: int) -> int:
        if len(opened) == 3:
            raise OSError(24, "Too many open files")
        opened.append(begin(path, flags))
        return opened[-1]

    monkeypatch.setattr(tables.os, "open", failing)
    with pytest.raises(CheckpointError, match="cannot be opened"):
        TableStore.of(checkpoint.make_plan(memories))
    gc.collect()
    for file in opened:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(file)


def test_a_table_in_half_precision_stays_on_disk(memories: Path, tmp_path: Path) -> None:
    """Kernels want it in another type, which is made of no more than is read."""
    shutil.copytree(memories, tmp_path / "half")
    (path,) = (tmp_path / "half").glob("*.safetensors")
    tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
    for name in [name for name in tensors if name.endswith("engram.embed.weight")]:
        del tensors[name.replace("weight", "scale")]
        tensors[name] = tensors[name].to(torch.float16)
    save_file(tensors, path)
    (tmp_path / "half" / "model.safetensors.index.json").unlink()
    model = checkpoint.load(tmp_path / "half", FAST)
    want = logits(model)
    store = TableStore.of(checkpoint.make_plan(tmp_path / "half"))
    model.stream_tables(store)
    assert torch.equal(logits(model), want)
    for engram in model.engrams().values():
        fused = ops.fused("memory", engram, FAST)
        assert fused is not None
        assert max(tensor.numel() for tensor in fused._handles._kept) < engram.embed.weight.numel()
    store.close()


def test_a_table_that_became_shorter_is_named(memories: Path, tmp_path: Path) -> None:
    shutil.copytree(memories, tmp_path / "short")
    store = TableStore.of(checkpoint.make_plan(tmp_path / "short"))
    (file,) = (tmp_path / "short").glob("*.safetensors")
    os.truncate(file, 4096)
    rows = torch.tensor([[[23_000, 1, 2], [1, 5, 23_000]]])
    with pytest.raises(CheckpointError, match="ends in the middle of"):
        store.submit(0, rows).wait()
    store.close()


def test_tables_stay_on_disk_when_not_all_fits(memories: Path) -> None:
    want = logits(checkpoint.load(memories, FAST))
    plan = checkpoint.make_plan(memories)
    table = sum(source.nbytes for source in tables.table_sources(plan))
    roomy = checkpoint.load(memories, FAST, memory_limit=resident() + WORKING + 2 * plan.nbytes)
    assert not roomy.streams_tables
    tight = resident() + WORKING + plan.nbytes - table
    model = checkpoint.load(memories, FAST, memory_limit=tight + (1 << 20))
    assert model.streams_tables
    assert torch.equal(logits(model), want)


@pytest.mark.parametrize("guesses", ["off", "on"])
def test_an_engine_over_tables_on_disk_answers_the_same(memories: Path, guesses: Mode) -> None:
    """Several sequences, prompts in pieces, guesses: all read ahead, and some of it in vain."""
    model = checkpoint.load(memories, FAST).requires_grad_(False)
    vocabulary = model.config.vocab_size
    asked = [
        Generation(tuple(random.Random(i).choices(range(vocabulary), k=size)), 9, sampling=GREEDY)
        for i, size in enumerate((600, 3, 40))
    ]

    def answers() -> list[list[int]]:
        core = Core(model, Memory(model, 1 << 28), speculation=guesses)
        drawn: list[list[int]] = [[] for _ in asked]

        def listen(into: list[int], event: Event | Exception) -> None:
            assert not isinstance(event, Exception), event
            if isinstance(event, Token):
                into.append(event.id)

        for generation, into in zip(asked, drawn, strict=True):
            core.add(generation, partial(listen, into))
        while core.busy:
            core.step()
        return drawn

    want = answers()
    store = TableStore.of(checkpoint.make_plan(memories))
    model.stream_tables(store)
    assert answers() == want
    store.close()


def test_an_engine_reads_no_row_in_vain(memories: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prompts in pieces of any length, beside a sequence that decodes and beside each other."""
    model = checkpoint.load(memories, FAST).requires_grad_(False)
    asked = [
        Generation(tuple(random.Random(i).choices(range(99), k=size)), most, sampling=GREEDY)
        for i, (size, most) in enumerate(((1500, 2), (5, 40), (900, 2), (130, 2)))
    ]
    place = tables.read_places

    def rows_read() -> int:
        read: list[int] = []

        def counted(file: int, places: Tensor, out: Tensor) -> None:
            read.append(places.numel())
            place(file, places, out)

        with monkeypatch.context() as patch:
            patch.setattr(tables, "read_places", counted)
            store = TableStore.of(checkpoint.make_plan(memories))
            model.stream_tables(store)
            core = Core(model, Memory(model, 1 << 28), speculation="off")
            for generation in asked:
                core.add(generation, lambda event: None)
            while core.busy:
                core.step()
            assert not store._ahead
            store.close()
        return sum(read)

    read = rows_read()
    monkeypatch.setattr(model, "read_ahead", lambda *_: None)
    assert read == rows_read()


def test_too_small_a_limit_says_what_is_needed(folder: Path) -> None:
    with pytest.raises(UsageError, match="are too little"):
        checkpoint.load(folder, FAST, memory_limit=1 << 20)


def test_other_policies_cannot_stream(folder: Path) -> None:
    with pytest.raises(UsageError, match="native kernels"):
        load(folder, "exact", memory_limit=1 << 40)
