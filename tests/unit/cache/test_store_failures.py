"""Damaged files, disks that refuse, folders that cannot be written to: never a wrong record,
never an exception."""

from __future__ import annotations

import errno
import logging
import os
import resource
import shutil
from collections.abc import Callable
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

from dsv4.cache import folder as layout
from dsv4.cache import record
from dsv4.cache.store import Store
from dsv4.errors import UsageError

PAYLOAD = bytes(range(1, 101))
HEADER = 88


def one_record(folder: Path) -> Path:
    with opened(folder) as store:
        store.put("block", key_of(1), [PAYLOAD])
    (path,) = files(folder)
    assert path.stat().st_size == HEADER + len(PAYLOAD)
    return path


def check_damaged(folder: Path, path: Path) -> None:
    with opened(folder) as store:
        assert store.contains("block", key_of(1))
        assert store.get("block", key_of(1)) is None
        assert store.stats.damaged == 1 and store.stats.bytes == 0
        assert not os.path.lexists(path)
        assert not store.contains("block", key_of(1)) and store.get("block", key_of(1)) is None
        assert store.stats.damaged == 1 and store.stats.misses == 2
        store.put("block", key_of(1), [PAYLOAD])
        assert store.flush(30) and store.get("block", key_of(1)) == PAYLOAD


@pytest.mark.parametrize("offset", [*range(HEADER + 3), HEADER + 50, HEADER + len(PAYLOAD) - 1])
def test_a_flipped_bit_anywhere_is_found(tmp_path: Path, offset: int) -> None:
    path = one_record(tmp_path)
    content = bytearray(path.read_bytes())
    content[offset] ^= 1 << offset % 8
    path.write_bytes(content)
    check_damaged(tmp_path, path)


@pytest.mark.parametrize("size", [0, 1, 8, 55, 56, 87, 88, 89, 187])
def test_a_truncated_record_is_found(tmp_path: Path, size: int) -> None:
    path = one_record(tmp_path)
    os.truncate(path, size)
    check_damaged(tmp_path, path)


def zero(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def zero_page(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:HEADER] + bytes(len(PAYLOAD)))


def lengthen(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


def huge(path: Path) -> None:
    os.truncate(path, 2**30 - 4096)


def text(path: Path) -> None:
    path.write_text("x" * path.stat().st_size)


def link(path: Path) -> None:
    """A link to the right record."""
    shutil.move(path, path.parents[2] / "elsewhere")
    path.symlink_to(path.parents[2] / "elsewhere")


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize("damage", [zero, zero_page, lengthen, huge, text, link, pipe])
def test_a_foreign_file_is_found(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    path = one_record(tmp_path)
    damage(path)
    check_damaged(tmp_path, path)


def test_a_record_under_another_name_is_found(tmp_path: Path) -> None:
    """Another key's, another kind's, another binding's: each is whole, none is what was asked."""
    path = one_record(tmp_path)
    with opened(tmp_path) as store:
        for number in range(2, 6):
            kind = "window" if number == 2 else "block"
            store.put(kind, key_of(number), [PAYLOAD])
        assert store.flush(30)
        files_by_key = {file.stem: file for file in files(tmp_path)}
        shutil.copy(files_by_key[key_of(3).hex()], files_by_key[key_of(4).hex()])
        shutil.copy(path, files_by_key[key_of(2).hex()])
        assert store.get("block", key_of(4)) is None and store.get("window", key_of(2)) is None
        assert store.get("block", key_of(3)) == PAYLOAD and store.stats.damaged == 2
    other = BINDING[::-1]
    shutil.copytree(tmp_path / BINDING.hex(), tmp_path / other.hex())
    with opened(tmp_path, binding=other) as store:
        assert store.stats.records == 3
        assert store.get("block", key_of(1)) is None and store.stats.damaged == 1


def test_a_link_that_takes_the_place_of_a_record_is_not_followed(tmp_path: Path) -> None:
    path = one_record(tmp_path)
    with opened(tmp_path) as store:
        link(path)
        assert store.get("block", key_of(1)) is None and store.stats.damaged == 1
        assert not path.is_symlink()


def test_a_record_that_was_deleted_is_absent(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        put(store, 1, 2)
        shutil.rmtree(tmp_path / BINDING.hex())
        assert store.get(kind_of(1), key_of(1)) is None and present(store, range(3)) == [2]
        assert store.stats.damaged == 0
        put(store, 1)
        assert store.get(kind_of(1), key_of(1)) == payload_of(1)


def test_what_a_crash_left_is_removed_and_the_rest_is_left_alone(tmp_path: Path) -> None:
    path = one_record(tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    (path.parent / "notes.part").write_text("mine")
    partial = path.with_name(path.name + ".part")
    partial.write_bytes(path.read_bytes()[:50])
    with opened(tmp_path) as store:
        assert not partial.exists()
        assert store.get("block", key_of(1)) == PAYLOAD and store.stats.records == 1
    assert (tmp_path / "notes.txt").exists() and (path.parent / "notes.part").exists()


class Refusal:
    """Stands for a call of `os` that fails from some time on, with the error that it is given."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, call: str, code: int) -> None:
        self.on = False
        real = getattr(os, call)

        def refuse(*arguments: object, **named: object) -> object:
            writes = call != "open" or int(arguments[1]) & os.O_CREAT  # type: ignore[call-overload]
            if self.on and writes:
                raise OSError(code, os.strerror(code))
            return real(*arguments, **named)

        monkeypatch.setattr(os, call, refuse)


@pytest.mark.parametrize(
    ("call", "code"),
    [
        ("open", errno.EACCES),
        ("open", errno.EROFS),
        ("open", errno.ENOSPC),
        ("utime", errno.EPERM),
        ("replace", errno.ENOSPC),
    ],
)
def test_a_disk_that_refuses_is_reported_once_and_still_read(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    call: str,
    code: int,
) -> None:
    refusal = Refusal(monkeypatch, call, code)
    with opened(tmp_path) as store, caplog.at_level(logging.WARNING, "dsv4.cache"):
        put(store, 1)
        refusal.on = True
        put(store, 2, 3)
        refusal.on = False
        put(store, 4)
        assert present(store, range(5)) == [1] and store.stats.dropped == 3
        assert store.get(kind_of(1), key_of(1)) == payload_of(1)
    assert len(caplog.messages) == 1 and os.strerror(code) in caplog.text
    assert len(files(tmp_path)) == 1
    with opened(tmp_path) as store:
        put(store, 4)
        assert present(store, range(5)) == [1, 4]


def test_a_disk_that_fills_up_inside_a_record(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A limit on the size of files stands for the full disk: the system refuses the rest."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with opened(tmp_path) as store:
        put(store, 1)
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
        try:
            store.put("window", key_of(8), [bytes(30_000), bytes(30_000)])
            assert store.flush(30)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert not store.contains("window", key_of(8)) and store.stats.dropped == 1
        assert store.get(kind_of(1), key_of(1)) == payload_of(1)
    assert len(files(tmp_path)) == 1 and len(caplog.messages) == 1


def test_eviction_that_is_refused_stops_writing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with opened(tmp_path, 4096) as store:
        store.put("block", key_of(1), [PAYLOAD])
        assert store.flush(30)
        refusal = Refusal(monkeypatch, "unlink", errno.EACCES)
        refusal.on = True
        store.put("block", key_of(2), [PAYLOAD])
        assert store.flush(30) and len(files(tmp_path)) == 1
        assert store.stats.dropped == 1 and len(caplog.messages) == 1


@pytest.mark.parametrize("call", ["chmod", "open", "flock"])
def test_a_folder_that_can_only_be_read_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, call: str
) -> None:
    """Without a right to write, or where there are no locks; root has all rights, hence the
    fakes."""
    path = one_record(tmp_path)
    partial = path.with_name(path.name + ".part")
    partial.write_bytes(b"another process may be writing this")
    if call == "flock":

        def refuse(*_: object) -> None:
            raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

        monkeypatch.setattr(layout.fcntl, "flock", refuse)
    else:
        Refusal(monkeypatch, call, errno.EACCES).on = True
    with opened(tmp_path, 10) as store:  # less than there is: nothing is removed
        assert store.get("block", key_of(1)) == PAYLOAD
        put(store, 2)
        assert not store.contains(kind_of(2), key_of(2)) and store.stats.dropped == 1
        path.write_bytes(b"damaged")
        assert store.get("block", key_of(1)) is None and store.stats.damaged == 1
        assert path.exists() and partial.exists() and store.stats.evicted == 0
    assert len(caplog.messages) == 1


def test_a_read_error_is_a_miss_or_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, real = one_record(tmp_path), os.open
    codes = [errno.EMFILE, errno.EIO]

    def refuse(name: str, *arguments: int) -> int:
        if name == str(path) and codes:
            raise OSError(codes[0], os.strerror(codes.pop(0)))
        return real(name, *arguments)

    with opened(tmp_path) as store:
        monkeypatch.setattr(os, "open", refuse)
        assert store.get("block", key_of(1)) is None and store.stats.damaged == 0
        assert store.contains("block", key_of(1))
        assert store.get("block", key_of(1)) is None and store.stats.damaged == 1
        assert not path.exists()


def test_a_mistake_of_ours_on_the_writer_thread_stops_writing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ValueError("not foreseen")

    with opened(tmp_path) as store:
        monkeypatch.setattr(record, "write", fail)
        put(store, 1, 2)
        assert store.stats.dropped == 2 and "not foreseen" in caplog.text


def test_a_folder_that_is_no_folder_is_the_callers_mistake(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "file", tmp_path / "file" / "inside"):
        with pytest.raises(UsageError, match="no cache folder"):
            Store(path, BINDING, 1)
