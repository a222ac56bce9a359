"""Experts read on demand: the same numbers as mapped ones, within the budget, from any thread."""

from __future__ import annotations

import os
import random
import re
import shutil
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from expert_stores import Gate, acquire, in_thread, mapped, raw, settled, store_of
from safetensors.torch import load_file, save_file

from dsv4 import checkpoint
from dsv4.checkpoint.expert_reads import (
    PAGE,
    Files,
    expert_sources,
    large_pages,
    slot_pages,
    spans,
)
from dsv4.checkpoint.experts import ExpertStore
from dsv4.checkpoint.plan import make_plan
from dsv4.errors import CheckpointError, UsageError
from dsv4.presets import preset

TINY = preset("tiny")
COUNT = TINY.n_routed_experts


@pytest.fixture(scope="module")
def fp4(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("experts") / "fp4"
    checkpoint.synth(TINY, folder, seed=5)
    return folder


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As the -Base checkpoints are: FP8 experts, float32 scales."""
    folder = tmp_path_factory.mktemp("experts") / "base"
    checkpoint.synth(replace(TINY, expert_dtype="fp8", scale_dtype="f32"), folder, seed=6)
    return folder


@pytest.fixture(scope="module")
def stacked(fp4: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Experts of a layer in one tensor, as transformers stores them; not quantised."""
    folder = tmp_path_factory.mktemp("experts") / "stacked"
    checkpoint.export_transformers(checkpoint.load(fp4), folder, dtype=torch.bfloat16)
    return folder


@pytest.fixture(scope="module")
def split(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The parts of an expert all over three files, in the safetensors library's own order."""
    folder = tmp_path_factory.mktemp("experts") / "split"
    folder.mkdir()
    shutil.copy(base / "config.json", folder)
    tensors = {
        name: tensor
        for path in base.glob("*.safetensors")
        for name, tensor in load_file(path).items()
    }
    for i in range(3):
        part = {name: tensors[name] for name in sorted(tensors)[i::3]}
        save_file(part, folder / f"model-{i}.safetensors")
    return folder


@pytest.mark.parametrize("direct", [True, False])
@pytest.mark.parametrize("name", ["fp4", "base", "split", "stacked"])
def test_every_expert_equals_the_mapped_one(
    name: str, direct: bool, request: pytest.FixtureRequest
) -> None:
    folder = request.getfixturevalue(name)
    model = checkpoint.load(folder)
    with store_of(folder, 3, direct=direct) as store:
        for layer, expert in expert_sources(make_plan(folder)):
            (matrices,) = acquire(store, layer, [expert])
            assert [raw(weight) for weight in matrices] == mapped(model, layer, expert)
            store.release(layer, [expert])
        assert store.stats.misses == len(expert_sources(make_plan(folder)))


def test_experts_of_the_prediction_block_follow_those_of_the_layers(fp4: Path) -> None:
    layers = {layer for layer, _ in expert_sources(make_plan(fp4))}
    assert layers == set(range(TINY.num_hidden_layers + 1))


def test_neighbours_in_a_file_are_one_read(fp4: Path, base: Path, split: Path) -> None:
    for expert in expert_sources(make_plan(fp4)).values():
        assert len(spans(expert)) == 1  # elements and scales in turn
    for expert in expert_sources(make_plan(base)).values():
        assert len(spans(expert)) == 2  # all float32 scales stand at the front of the file
    files = {
        len({span.file for span in spans(e)}) for e in expert_sources(make_plan(split)).values()
    }
    assert files == {3}


def test_memory_is_what_the_budget_says(fp4: Path) -> None:
    sources = expert_sources(make_plan(fp4))
    size = PAGE * max(slot_pages(spans(expert)) for expert in sources.values())
    with ExpertStore(sources, 5 * size - 1) as store:
        assert store.capacity == 4 and store.nbytes == 4 * size
        for expert in range(COUNT):
            store.prefetch(0, [expert])
            acquire(store, 1, [expert])
            store.release(1, [expert])
            assert len(store._entries) <= 4
    with ExpertStore(sources, 1 << 30) as store:
        assert store.capacity == len(sources) and store.nbytes == len(sources) * size


def test_a_budget_that_is_too_small_names_the_least(fp4: Path) -> None:
    with pytest.raises(UsageError, match="hold 0 of them") as caught:
        ExpertStore.of(make_plan(fp4), 1000)
    assert caught.value.hint is not None and "give at least" in caught.value.hint
    least = 2 * TINY.num_experts_per_tok
    with pytest.raises(UsageError):
        store_of(fp4, least - 1, least=least)
    with store_of(fp4, least, least=least) as store:
        assert store.capacity == least


def test_the_least_used_goes_and_the_pinned_stays(fp4: Path) -> None:
    with store_of(fp4, 3) as store:
        acquire(store, 0, [0])
        for expert in (1, 2, 1):
            acquire(store, 0, [expert])
            store.release(0, [expert])
        acquire(store, 0, [3])
        store.release(0, [3])
        assert set(store._entries) == {(0, 0), (0, 1), (0, 3)}  # 2 was used less than 1
        store.release(0, [0])
        assert store.stats.hits == 1 and store.stats.misses == 4


def test_asking_twice_for_the_same_is_one_pin(fp4: Path) -> None:
    with store_of(fp4, 2) as store:
        first, second, again = acquire(store, 0, [4, 5, 4])
        assert again is first and second is not first
        store.release(0, [4, 5, 4])
        acquire(store, 1, [0, 1])
        with pytest.raises(AssertionError):
            acquire(store, 2, [0, 1, 2])  # more than fit


def test_what_was_read_ahead_is_a_hit(fp4: Path) -> None:
    model = checkpoint.load(fp4)
    with store_of(fp4, 4) as store:
        store.prefetch(2, [6, 7])
        settled(store)
        (matrices,) = acquire(store, 2, [7])
        assert [raw(weight) for weight in matrices] == mapped(model, 2, 7)
        stats = store.stats
        assert (stats.hits, stats.misses, stats.prefetched, stats.prefetch_used) == (1, 0, 2, 1)


def test_read_ahead_takes_no_slot_in_use(fp4: Path) -> None:
    with store_of(fp4, 3) as store:
        acquire(store, 0, [0])
        store.prefetch(1, [0, 1])
        store.prefetch(2, [0, 1])  # no slot is left
        assert set(store._entries) == {(0, 0), (1, 0), (1, 1)}
        settled(store)
        acquire(store, 1, [1])  # layer 1 came, so its other guess may go
        store.prefetch(2, [0])
        assert set(store._entries) == {(0, 0), (1, 1), (2, 0)}


def test_an_acquire_takes_slots_of_read_ahead(fp4: Path) -> None:
    with store_of(fp4, 2) as store:
        store.prefetch(1, [0, 1])
        acquire(store, 0, [0, 1])
        assert set(store._entries) == {(0, 0), (0, 1)}


def test_an_acquired_expert_overtakes_read_ahead(fp4: Path, gate: Gate) -> None:
    with store_of(fp4, 8, threads=1) as store:
        store.prefetch(0, [0, 1, 2, 3])
        gate.wait()
        thread = in_thread(lambda: acquire(store, 0, [0, 3, 5]))
        while store.stats.misses < 2:
            time.sleep(0.001)
        gate.open.set()
        thread.join(20)
        order = [store._spans[0, expert][0] for expert in (0, 3, 5)]
        assert gate.began == order  # 1 and 2 were dropped with the layer's acquire
        assert store.stats.prefetched == store.stats.prefetch_used == 1


def test_an_acquire_waits_for_a_slot_that_is_being_read(fp4: Path, gate: Gate) -> None:
    with store_of(fp4, 1, threads=1) as store:
        store.prefetch(0, [0])
        gate.wait()
        thread = in_thread(lambda: acquire(store, 1, [0]))
        gate.open.set()
        thread.join(20)
        assert not thread.is_alive() and set(store._entries) == {(1, 0)}


def test_closing_ends_a_wait(fp4: Path, gate: Gate) -> None:
    store = store_of(fp4, 2, threads=1)
    failed = threading.Event()

    def work() -> None:
        with pytest.raises(UsageError, match="closed"):
            acquire(store, 0, [0, 1])
        failed.set()

    thread = in_thread(work)
    gate.wait()
    closing = in_thread(store.close)
    gate.open.set()
    thread.join(20)
    closing.join(20)
    assert failed.is_set()
    with pytest.raises(UsageError, match="closed"):
        acquire(store, 0, [0])
    store.prefetch(0, [0])
    store.close()


def test_tensors_outlive_the_store(fp4: Path) -> None:
    model = checkpoint.load(fp4)
    store = store_of(fp4, 1)
    (matrices,) = acquire(store, 3, [6])
    store.close()
    del store
    assert [raw(weight) for weight in matrices] == mapped(model, 3, 6)


def test_a_store_nobody_has_leaves_no_threads_and_no_open_files(fp4: Path) -> None:
    store = store_of(fp4, 2)
    acquire(store, 0, [0])
    threads, descriptors = store._queue._threads, [*store._files._cached.values()]
    del store
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    for descriptor in descriptors:
        with pytest.raises(OSError):
            os.fstat(descriptor)


@pytest.mark.parametrize("direct", [True, False])
def test_a_file_cut_short_while_in_use(fp4: Path, tmp_path: Path, direct: bool) -> None:
    folder = Path(shutil.copytree(fp4, tmp_path / "cut"))
    with store_of(folder, 4, direct=direct) as store:
        last = max(store._spans, key=lambda key: store._spans[key][-1].stop)
        span = store._spans[last][-1]
        os.truncate(span.file, span.stop - 100)
        store.prefetch(last[0], [last[1]])
        settled(store)
        for _ in range(2):
            with pytest.raises(CheckpointError, match=f"{span.file.name} ends at byte"):
                acquire(store, last[0], [last[1], *range(3)])
        assert not any(entry.pins for entry in store._entries.values())
        acquire(store, last[0], range(4))


def test_a_file_that_cannot_be_read(fp4: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> int:
        raise OSError(5, "Input/output error")

    with store_of(fp4, 2) as store:
        monkeypatch.setattr(os, "preadv", fail)
        with pytest.raises(CheckpointError, match="cannot be read: Input/output error"):
            acquire(store, 0, [0])
        monkeypatch.undo()
        acquire(store, 0, [0])
    with pytest.raises(CheckpointError, match="gone cannot be opened"):
        Files([fp4 / "gone"])


def test_groups_start_with_what_is_there(fp4: Path) -> None:
    with store_of(fp4, 4) as store:
        acquire(store, 0, [5, 7])
        assert store.groups(0, [1, 7, 2, 5, 1, 3]) == [[7, 5], [1, 2], [3]]
        assert store.groups(0, [1, 7, 2], most=4) == [[7, 1, 2]]
        assert store.groups(0, []) == []


def test_groups_with_read_ahead_miss_nothing(fp4: Path) -> None:
    """The loop of a long prompt: one group is computed while the next is read."""
    with store_of(fp4, 4) as store:
        for layer in range(TINY.num_hidden_layers):
            groups = store.groups(layer, range(COUNT))
            for group, following in zip(groups, [*groups[1:], []], strict=True):
                acquire(store, layer, group)
                store.prefetch(layer, following)
                settled(store)
                store.release(layer, group)
        stats = store.stats
        assert stats.misses == 2 * TINY.num_hidden_layers  # the first group of each layer
        assert stats.hits == (COUNT - 2) * TINY.num_hidden_layers


@pytest.mark.parametrize("seed", range(6))
def test_threads_at_random(fp4: Path, seed: int) -> None:
    """Three threads with too few slots: right numbers, no deadlock, nothing left pinned."""
    model = checkpoint.load(fp4)
    keys = list(expert_sources(make_plan(fp4)))
    truth = {key: mapped(model, *key) for key in keys}
    wrong: list[object] = []

    with store_of(fp4, 7, threads=2, direct=bool(seed % 2)) as store:

        def work(own: int) -> None:
            rng = random.Random(10 * seed + own)
            try:
                for _ in range(60):
                    layer = rng.randrange(TINY.num_hidden_layers + 1)
                    experts = rng.choices(range(COUNT), k=rng.randint(1, 6))
                    if rng.random() < 0.5:
                        store.prefetch(layer, rng.choices(range(COUNT), k=4))
                    got = acquire(store, layer, experts)
                    for expert, matrices in zip(experts, got, strict=True):
                        if [raw(weight) for weight in matrices] != truth[layer, expert]:
                            wrong.append((layer, expert))
                    store.release(layer, experts)
            except BaseException as error:
                wrong.append(error)

        threads = [in_thread(lambda own=own: work(own)) for own in range(3)]
        for thread in threads:
            thread.join(60)
        assert not any(thread.is_alive() for thread in threads) and not wrong
        settled(store)
        assert not any(entry.pins for entry in store._entries.values())
        assert len(store._entries) + len(store._free) == store.capacity
        assert store._ahead.keys() <= store._entries.keys()
        stats = store.stats
        assert stats.prefetch_used <= stats.prefetched and stats.bytes_read > 0


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="needs Linux's list of mappings")
def test_slots_are_private_large_pages_that_no_child_shares() -> None:
    memory = large_pages(1 << 22)
    address = torch.frombuffer(memory, dtype=torch.uint8).data_ptr()
    flags = ""
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if found := re.match("([0-9a-f]+)-([0-9a-f]+) ", line):
            first, stop = (int(number, 16) for number in found.groups())
        elif line.startswith("VmFlags:") and first <= address < stop:
            flags = line
    assert " dc" in flags and " sh" not in flags
    assert " hg" in flags or not Path("/sys/kernel/mm/transparent_hugepage").exists()
