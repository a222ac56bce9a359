"""What a store keeps, for whom, for how long and in which order it lets go."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from tests.unit.cache.records import (
    BINDING,
    files,
    key_of,
    kind_of,
    opened,
    payload_of,
    present,
    put,
)

from dsv4.cache import record
from dsv4.cache.store import Store
from dsv4.errors import UsageError

PAGE = 4096  # what the records of `put_small` take


def put_small(store: Store, *numbers: int) -> None:
    for number in numbers:
        store.put("block", key_of(number), [b"%d" % number])
        assert store.flush(30)


def small(store: Store, count: int) -> list[int]:
    return [i for i in range(count) if store.contains("block", key_of(i))]


def test_parts_are_joined_and_survive_a_restart(tmp_path: Path) -> None:
    parts = [b"ab", bytearray(b"cd"), memoryview(b"e0f0g0")[::2].tobytes(), b"", memoryview(b"")]
    with opened(tmp_path) as store:
        store.put("block", key_of(1), parts)
        assert store.get("block", key_of(1)) == b"abcdefg"
        assert store.flush(30)
        assert store.get("block", key_of(1)) == b"abcdefg"
    with opened(tmp_path) as store:
        assert store.get("block", key_of(1)) == b"abcdefg"
        assert store.get("window", key_of(1)) is None
        assert store.get("block", key_of(2)) is None
        assert store.stats.hits == 1 and store.stats.misses == 2 and store.stats.records == 1
        assert store.stats.bytes == PAGE


def test_an_empty_record_is_a_record(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        store.put("window", key_of(1), [])
        assert store.flush(30)
        assert store.get("window", key_of(1)) == b""


def test_a_chain_is_read_up_to_its_first_gap(tmp_path: Path) -> None:
    chain = [key_of(i) for i in range(8)]
    with opened(tmp_path) as store:
        put_small(store, 0, 1, 2, 3, 5, 6)
        assert store.get_many("block", chain) == [b"0", b"1", b"2", b"3"]
        assert store.get_many("block", chain[5:7]) == [b"5", b"6"]
        assert store.get_many("window", chain) == [] == store.get_many("block", [])
        assert store.stats.hits == 6 and store.stats.misses == 2
        damaged = next(path for path in files(tmp_path) if path.stem == key_of(2).hex())
        damaged.write_bytes(b"nothing")
        assert store.get_many("block", chain[:4]) == [b"0", b"1"]
        assert small(store, 8) == [0, 1, 3, 5, 6] and store.stats.damaged == 1


def test_another_binding_sees_nothing(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        put(store, 1)
    with opened(tmp_path, binding=b"other weights") as store:
        assert store.get(kind_of(1), key_of(1)) is None
        assert store.stats.records == 0 and store.stats.bytes > 0
    with opened(tmp_path) as store:
        assert store.get(kind_of(1), key_of(1)) == payload_of(1)


def test_the_least_recently_used_record_goes_first(tmp_path: Path) -> None:
    with opened(tmp_path, 4 * PAGE) as store:
        put_small(store, 0, 1, 2, 3)
        assert store.get("block", key_of(0)) == b"0"
        put_small(store, 1)  # a second put is a use
        put_small(store, 4)
        assert small(store, 5) == [0, 1, 3, 4]
        put_small(store, 5)
        assert small(store, 6) == [0, 1, 4, 5]
        assert store.stats.evicted == 2 and store.stats.bytes == 4 * PAGE
        assert len(files(tmp_path)) == 4


def test_the_end_of_a_chain_goes_before_its_start(tmp_path: Path) -> None:
    with opened(tmp_path, 4 * PAGE) as store:
        put_small(store, 0, 1, 2, 3)
        assert len(store.get_many("block", [key_of(i) for i in range(4)])) == 4
        put_small(store, 4, 5)
        assert small(store, 6) == [0, 1, 4, 5]


def test_recency_survives_a_restart(tmp_path: Path) -> None:
    long_ago = time.time_ns() - 3600 * 10**9
    with opened(tmp_path, 4 * PAGE) as store:
        put_small(store, 3, 1, 2, 0)
    for i, path in enumerate(sorted(files(tmp_path), key=lambda path: path.stat().st_mtime_ns)):
        os.utime(path, ns=(long_ago + i, long_ago + i))  # as if the hour had passed
    with opened(tmp_path, 4 * PAGE) as store:
        store.touch("block", [key_of(3), key_of(1)])
    with opened(tmp_path, 2 * PAGE) as store:
        assert small(store, 4) == [1, 3]
    with opened(tmp_path, PAGE) as store:
        assert small(store, 4) == [3]


def test_a_time_of_use_is_written_once_a_minute(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        put_small(store, 0)
        (path,) = files(tmp_path)
        before = path.stat().st_mtime_ns
        store.touch("block", [key_of(0)])
        assert store.flush(30) and path.stat().st_mtime_ns == before


def test_records_of_other_bindings_go_first(tmp_path: Path) -> None:
    with opened(tmp_path, binding=b"other weights") as store:
        put_small(store, 0, 1)
    with opened(tmp_path, 3 * PAGE) as store:
        put_small(store, 2)
        assert store.stats.bytes == 3 * PAGE
        put_small(store, 3, 4)
        assert small(store, 5) == [2, 3, 4] and store.stats.evicted == 2
    assert {path.name for path in tmp_path.iterdir()} == {"lock", BINDING.hex()}


def test_a_smaller_capacity_is_met_at_once(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        put_small(store, *range(10))
    with opened(tmp_path, 3 * PAGE) as store:
        assert small(store, 10) == [7, 8, 9]
        assert len(files(tmp_path)) == 3


def test_what_can_never_fit_is_dropped(tmp_path: Path) -> None:
    with opened(tmp_path, 2 * PAGE) as store:
        put_small(store, 0)
        store.put("window", key_of(9), [bytes(2 * PAGE)])
        assert store.stats.dropped == 1 and small(store, 1) == [0]


def test_a_backlog_is_bounded_and_can_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go, write = threading.Event(), record.write

    def slow(*arguments: object, **named: object) -> None:
        assert go.wait(30)
        write(*arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(record, "write", slow)
    with opened(tmp_path, backlog=2500) as store:
        try:
            for i in range(4):
                store.put("block", key_of(i), [bytes([i]) * 1000])
            assert small(store, 4) == [0, 1] and store.stats.dropped == 2
            assert store.get("block", key_of(1)) == b"\x01" * 1000
            assert not store.flush(0.01)
        finally:
            go.set()
        assert store.flush(30)
        assert small(store, 4) == [0, 1] and store.stats.records == 2
        store.put("block", key_of(2), [bytes(1000)])  # there is room again
        assert store.get("block", key_of(2)) == bytes(1000)


def test_closing_writes_what_waits(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        for i in range(50):
            store.put(kind_of(i), key_of(i), [payload_of(i)])
    assert store.get(kind_of(1), key_of(1)) is None
    store.put(kind_of(1), key_of(1), [payload_of(1)])
    assert store.stats.dropped == 1 and store.get_many("block", [key_of(1)]) == []
    with opened(tmp_path) as store:
        assert present(store, range(50)) == list(range(50))


def test_a_folder_has_one_process(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from dsv4.cache.store import Store\n"
        "Store(Path(sys.argv[1]), b'x', 1)"
    )
    with opened(tmp_path), pytest.raises(UsageError, match=rf"running process \({os.getpid()}\)"):
        Store(tmp_path, BINDING, 1)
    with opened(tmp_path) as store:
        put(store, 1)
        other = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True)
        assert b"UsageError" in other.stderr
        put(store, 2)
        assert present(store, range(3)) == [1, 2]
    other = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True)
    assert other.returncode == 0, other.stderr


def test_nobody_else_can_read_records(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "cache"
    mask = os.umask(0)
    try:
        with opened(folder) as store:
            put(store, *range(5))
    finally:
        os.umask(mask)
    for path in [folder, *folder.rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


def test_readers_and_the_evicting_writer_do_not_disturb_each_other(tmp_path: Path) -> None:
    wrong: list[int] = []
    done = threading.Event()

    def read(first: int) -> None:
        i = first
        while not done.is_set():
            got = store.get(kind_of(i), key_of(i))
            if got is not None and got != payload_of(i):
                wrong.append(i)
            i = (i + 7) % 60

    with opened(tmp_path, 40 * PAGE) as store:
        threads = [threading.Thread(target=read, args=(i,)) for i in range(3)]
        for thread in threads:
            thread.start()
        for turn in range(10):
            put(store, *((i * 13 + turn) % 60 for i in range(60)))
        done.set()
        for thread in threads:
            thread.join()
        assert not wrong and store.stats.damaged == 0
        assert store.stats.hits > 100 and store.stats.evicted > 100
        assert store.stats.bytes <= 40 * PAGE
        assert store.stats.bytes == sum(
            -(-f.stat().st_size // PAGE) * PAGE for f in files(tmp_path)
        )


def test_the_store_starts_without_torch() -> None:
    code = (
        "import sys, dsv4.cache.store; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
