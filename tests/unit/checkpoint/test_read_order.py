"""In which order experts are read, and what becomes of reads that fail or are not wanted."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
from expert_stores import Gate, acquire, in_thread, mapped, raw, settled, store_of

from dsv4 import checkpoint
from dsv4.checkpoint import read_queue
from dsv4.checkpoint.expert_reads import PAGE, Files, Span, expert_sources
from dsv4.checkpoint.experts import ExpertStore
from dsv4.checkpoint.plan import make_plan
from dsv4.checkpoint.read_queue import pieces
from dsv4.errors import CheckpointError
from dsv4.presets import preset

TINY = preset("tiny")
Key = tuple[int, int]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("order") / "tiny"
    checkpoint.synth(TINY, folder, seed=5)
    return folder


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tiny expert has 13 pages: in pieces of four that makes four of them."""
    monkeypatch.setattr(read_queue, "PIECE", 4 * PAGE)


def whose(store: ExpertStore, read: list[Span]) -> list[Key]:
    """The experts that reads belong to, repeated reads of one named once."""
    owner = {piece: key for key, reads in store._spans.items() for piece in pieces(reads)}
    keys = [owner[span] for span in read]
    return [key for i, key in enumerate(keys) if not i or key != keys[i - 1]]


@pytest.mark.parametrize("direct", [True, False])
def test_pieces_make_up_the_expert(folder: Path, direct: bool) -> None:
    model = checkpoint.load(folder)
    with store_of(folder, 3, direct=direct) as store:
        for layer, expert in expert_sources(make_plan(folder)):
            assert len(pieces(store._spans[layer, expert])) > 1
            (matrices,) = acquire(store, layer, [expert])
            assert [raw(weight) for weight in matrices] == mapped(model, layer, expert)
            store.release(layer, [expert])


def test_a_new_guess_replaces_the_old_one(folder: Path, gate: Gate) -> None:
    with store_of(folder, 8, threads=1) as store:
        store.prefetch(0, [0])
        gate.wait()
        store.prefetch(1, [1, 2, 3])
        store.prefetch(1, [3, 1])
        gate.open.set()
        settled(store)
        assert whose(store, gate.began) == [(0, 0), (1, 3), (1, 1)]
        assert set(store._entries) == {(0, 0), (1, 1), (1, 3)}


def test_an_acquired_expert_overtakes_one_half_read(folder: Path, gate: Gate) -> None:
    with store_of(folder, 4, threads=1) as store:
        store.prefetch(1, [0])
        gate.wait()
        store.acquire(0, [5])
        gate.open.set()
        settled(store)
        assert whose(store, gate.began) == [(1, 0), (0, 5), (1, 0)]


def test_a_wrong_guess_is_not_read_to_its_end(folder: Path, gate: Gate) -> None:
    model = checkpoint.load(folder)
    with store_of(folder, 4, threads=1) as store:
        store.prefetch(0, [0])
        gate.wait()
        store.acquire(0, [5])
        gate.open.set()
        settled(store)
        assert gate.began == [pieces(store._spans[0, 0])[0], *pieces(store._spans[0, 5])]
        assert set(store._entries) == {(0, 5)} and len(store._free) == 3
        stats = store.stats
        assert (stats.misses, stats.prefetched, stats.prefetch_used) == (1, 1, 0)
        assert stats.bytes_cold == store._sizes[0, 5] < stats.bytes_read
        store.release(0, [5])
        (matrices,) = acquire(store, 0, [0])
        assert [raw(weight) for weight in matrices] == mapped(model, 0, 0)


@pytest.mark.parametrize("again", ["acquire", "prefetch"])
def test_a_guess_given_up_is_taken_up_again(folder: Path, gate: Gate, again: str) -> None:
    model = checkpoint.load(folder)
    with store_of(folder, 4, threads=1) as store:
        store.prefetch(0, [0])
        gate.wait()
        store.prefetch(0, [])
        if again == "acquire":
            assert store.acquire(0, [0]) == {}
        else:
            store.prefetch(0, [0])
        gate.open.set()
        settled(store)
        assert gate.began == [*pieces(store._spans[0, 0])]  # nothing twice
        (matrices,) = acquire(store, 0, [0])
        assert [raw(weight) for weight in matrices] == mapped(model, 0, 0)


def test_what_is_there_is_handed_out_before_the_rest_has_come(folder: Path, gate: Gate) -> None:
    with store_of(folder, 4, threads=1) as store:
        gate.open.set()
        acquire(store, 0, [1])
        gate.open.clear()
        assert store.acquire(0, [0, 1]).keys() == {1}
        assert store.arrived(0, [0, 1]).keys() == {1}
        thread = in_thread(lambda: store.arrived(0, [0]))
        gate.open.set()
        thread.join(20)
        assert store.arrived(0, [0, 1]).keys() == {0, 1}


def failing(monkeypatch: pytest.MonkeyPatch, bad: set[Span]) -> None:
    """Let these reads fail, while they are in the set."""
    read = Files.read

    def fail(files: Files, span: Span, slot: memoryview) -> int:
        if span in bad:
            raise CheckpointError("broken disk")
        return read(files, span, slot)

    monkeypatch.setattr(Files, "read", fail)


def test_a_guess_that_cannot_be_read_harms_nobody(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with store_of(folder, 4) as store:
        bad = {pieces(store._spans[0, 0])[1]}
        failing(monkeypatch, bad)
        store.prefetch(0, [0, 1])
        settled(store)
        assert set(store._entries) == {(0, 1)}
        acquire(store, 0, [1, 2])
        store.release(0, [1, 2])

        # Whoever needs it learns why it is not there; the others come all the same.
        there = store.acquire(0, [0, 3])
        while 3 not in there:
            there = store.arrived(0, [3])
        with pytest.raises(CheckpointError, match="broken disk"):
            store.arrived(0, [0])
        store.release(0, [0, 3])
        assert not any(entry.pins for entry in store._entries.values())
        assert (0, 0) not in store._entries

        bad.clear()
        acquire(store, 0, [0])


@pytest.mark.parametrize("seed", range(4))
def test_failures_at_random(folder: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """Right numbers or an error, no slot lost, and never more in memory than fits."""
    model = checkpoint.load(folder)
    rng = random.Random(seed)
    with store_of(folder, 7, threads=2) as store:
        bad = {piece for reads in store._spans.values() for piece in pieces(reads)}
        bad = set(rng.sample(sorted(bad, key=lambda span: span.start), len(bad) // 40))
        failing(monkeypatch, bad)
        failed = 0
        for _ in range(150):
            layer = rng.randrange(TINY.num_hidden_layers + 1)
            for further in range(2):
                guess = rng.choices(range(TINY.n_routed_experts), k=3)
                store.prefetch((layer + further) % TINY.num_hidden_layers, guess)
            experts = rng.sample(range(TINY.n_routed_experts), k=rng.randint(1, 4))
            try:
                got = acquire(store, layer, experts)
            except CheckpointError:
                failed += 1
                continue
            for expert, matrices in zip(experts, got, strict=True):
                assert [raw(weight) for weight in matrices] == mapped(model, layer, expert)
            store.release(layer, experts)
            assert len(store._entries) + len(store._free) == store.capacity
        settled(store)
        assert 0 < failed < 150
        assert not any(entry.pins for entry in store._entries.values())
        assert not any(entry.error for entry in store._entries.values())


def test_a_reading_thread_survives_a_disk_error(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> int:
        raise OSError(5, "Input/output error")

    with store_of(folder, 4, threads=1) as store:
        monkeypatch.setattr(os, "preadv", fail)
        store.prefetch(0, [0, 1, 2])
        settled(store)
        assert not store._entries and len(store._free) == 4
        monkeypatch.undo()
        acquire(store, 0, [0, 1, 2])
