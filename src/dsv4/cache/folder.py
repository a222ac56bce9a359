"""Where the records of a disk cache lie, who may write there, and what is there.

    FOLDER/lock                     locked by the process that writes; holds its number
    FOLDER/BINDING/AB/KEY.block     records: BINDING and KEY in hexadecimal digits,
    FOLDER/BINDING/AB/KEY.window    AB the first two of KEY
    FOLDER/BINDING/AB/*.part        a record being written, or what a crash left of one

Files have mode 0600 and the folders in FOLDER 0700: records derive from what users wrote. A
file's modification time is when the record was last of use, give or take a minute. Anything else
in FOLDER is left alone.
"""

from __future__ import annotations

import errno
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, cast

from dsv4.cache.record import PARTIAL, Kind, Name
from dsv4.errors import UsageError

if sys.platform != "win32":
    import fcntl

_LOCK_NAME = "lock"
_BINDING = re.compile(r"(?:[0-9a-f]{2})+")
_SHARD = re.compile(r"[0-9a-f]{2}")
_RECORD = re.compile(r"([0-9a-f]{64})\.(block|window)")


class Found(NamedTuple):
    """A file that is named like a record; `used` in nanoseconds."""

    path: str
    binding: str
    name: Name
    size: int
    used: int


def record_path(folder: str, binding: str, name: Name) -> str:
    """The file of a record; `binding` in hexadecimal digits."""
    digits = name.key.hex()
    return f"{folder}/{binding}/{digits[:2]}/{digits}.{name.kind}"


def prepare(folder: str, binding: str) -> None:
    """Make a binding's folder, for this user alone. Raises OSError."""
    inner = f"{folder}/{binding}"
    os.makedirs(inner, mode=0o700, exist_ok=True)
    os.chmod(inner, 0o700)


def lock(folder: str) -> int:
    """A descriptor that holds the folder for this process until it is closed or the process ends.

    Raises UsageError if another has it, OSError if it cannot be locked.
    """
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
    descriptor = os.open(f"{folder}/{_LOCK_NAME}", flags, 0o600)
    if sys.platform == "win32":
        return descriptor
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.truncate(descriptor, 0)
        os.write(descriptor, b"%d\n" % os.getpid())
    except OSError as error:
        holder = os.read(descriptor, 20).decode("ascii", "replace").strip()
        os.close(descriptor)
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            raise UsageError(
                f"{folder} is the cache of another running process ({holder or 'unknown'})",
                "give each server a cache folder of its own",
            ) from error
        raise
    return descriptor


def scan(folder: str, *, remove_partial: bool) -> Iterator[Found]:
    """The records of all bindings, in no order. Raises OSError where it cannot look.

    `remove_partial`: delete what crashes left behind; for the one who holds the lock.
    """
    for binding in _folders(folder, _BINDING):
        for shard in _folders(f"{folder}/{binding}", _SHARD):
            with os.scandir(f"{folder}/{binding}/{shard}") as entries:
                for entry in entries:
                    match = _RECORD.fullmatch(entry.name.removesuffix(PARTIAL))
                    if match is None:
                        continue
                    if entry.name.endswith(PARTIAL):
                        if remove_partial:
                            os.unlink(entry.path)
                        continue
                    try:
                        status = entry.stat(follow_symlinks=False)
                    except FileNotFoundError:  # another process has just removed it
                        continue
                    digits, kind = match.groups()
                    name = Name(cast(Kind, kind), bytes.fromhex(digits))
                    yield Found(entry.path, binding, name, status.st_size, status.st_mtime_ns)


def remove_empty(path: str) -> None:
    """Remove the shard and the binding's folder that a removed record lay in, if nothing else
    does."""
    shard = Path(path).parent
    try:
        shard.rmdir()
        shard.parent.rmdir()
    except OSError:
        pass


def _folders(folder: str, pattern: re.Pattern[str]) -> list[str]:
    with os.scandir(folder) as entries:
        return [
            entry.name
            for entry in entries
            if pattern.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False)
        ]
