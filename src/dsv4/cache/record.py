"""One record of the disk cache: its name and the format of its file.

    bytes  what
    8      magic; its line ends are what a transfer as text would change
    2      version
    2      kind
    4      zero
    32     key
    8      length of the payload
    32     SHA-256 of the store's binding, of all of the above and of the payload
    ...    payload

SHA-256, since the standard library has nothing faster of 64 bits or more where the processor has
instructions for it: 1.3 GB/s on one core of an EPYC, BLAKE2b 0.7 (`benchmarks/kv_store.py`).
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import struct
from collections.abc import Sequence
from io import FileIO
from typing import Literal, NamedTuple

Kind = Literal["block", "window"]
"""`block`: the compressed entries of one finished block. `window`: the ring buffers at its end."""

Buffer = bytes | bytearray | memoryview
"""A contiguous piece of a payload."""

KEY_BYTES = 32
PARTIAL = ".part"
"""What the name of a file ends in while it is written."""

_CODES: dict[Kind, int] = {"block": 1, "window": 2}
_MAGIC = b"dsv4kv\r\n"
_VERSION = 1
_FIELDS = struct.Struct("<8sHHI32sQ")
_DIGEST_BYTES = 32
_HEADER_BYTES = _FIELDS.size + _DIGEST_BYTES
_NO_FOLLOW: int = getattr(os, "O_NOFOLLOW", 0)
_NO_WAIT: int = getattr(os, "O_NONBLOCK", 0)  # for what looks like a record and is a pipe
_BINARY: int = getattr(os, "O_BINARY", 0)


class Name(NamedTuple):
    """What a record is asked for by."""

    kind: Kind
    key: bytes


class DamagedError(Exception):
    """A file is not the record that its name promises."""


def file_bytes(parts: Sequence[memoryview]) -> int:
    """Size of the file that holds these parts."""
    return _HEADER_BYTES + sum(len(part) for part in parts)


def write(
    path: str, binding: bytes, name: Name, parts: Sequence[memoryview], *, modified: int
) -> None:
    """Write a record; the file appears under its name only when it is whole.

    It is not forced to the disk: what a power failure takes is found damaged, and computed again.
    `modified` (nanoseconds) becomes its time. The folder is made where it is missing. Raises
    OSError, and then leaves nothing behind.
    """
    fields = _fields(name, sum(len(part) for part in parts))
    partial = path + PARTIAL
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_FOLLOW | _BINARY
    try:
        descriptor = os.open(partial, flags, 0o600)
    except FileNotFoundError:
        shard = os.path.dirname(path)
        os.makedirs(os.path.dirname(shard), mode=0o700, exist_ok=True)
        os.makedirs(shard, mode=0o700, exist_ok=True)
        descriptor = os.open(partial, flags, 0o600)
    try:
        with open(descriptor, "wb") as file:
            file.write(fields + _digest(binding, fields, parts))
            for part in parts:
                file.write(part)
        os.utime(partial, ns=(modified, modified))
        os.replace(partial, path)
    except BaseException:
        os.unlink(partial)
        raise


def read(path: str, size: int, binding: bytes, name: Name) -> bytearray:
    """The payload of a record whose file has `size` bytes.

    Raises DamagedError if the file is anything else than that record, OSError if it cannot be
    read.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | _NO_FOLLOW | _NO_WAIT | _BINARY)
        with open(descriptor, "rb", buffering=0) as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode) or size < _HEADER_BYTES:
                raise DamagedError("not a file that holds a record")
            fields = _fields(name, size - _HEADER_BYTES)
            header = _read(file, _HEADER_BYTES)
            if not header.startswith(fields):
                raise DamagedError("the header is another")
            payload = _read(file, size - _HEADER_BYTES)
    except OSError as error:
        if error.errno in (errno.EIO, errno.ELOOP):  # a bad sector; a link
            raise DamagedError(str(error)) from error
        raise
    if header != fields + _digest(binding, fields, [memoryview(payload)]):
        raise DamagedError("the checksum is another")
    return payload


def _read(file: FileIO, size: int) -> bytearray:
    content = bytearray(size)
    rest = memoryview(content)
    while rest:
        count = file.readinto(rest)
        if not count:
            raise DamagedError("the file ends early")
        rest = rest[count:]
    return content


def _fields(name: Name, length: int) -> bytes:
    return _FIELDS.pack(_MAGIC, _VERSION, _CODES[name.kind], 0, name.key, length)


def _digest(binding: bytes, fields: bytes, parts: Sequence[memoryview]) -> bytes:
    total = hashlib.sha256(len(binding).to_bytes(8, "little") + binding + fields)
    for part in parts:
        total.update(part)
    return total.digest()
