"""One process at a time in a run folder."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from dsv4 import parallel
from dsv4.errors import UsageError

if sys.platform != "win32":
    import fcntl


@contextlib.contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Have a run folder for this process (the first of several) inside a `with` block.

    Raises UsageError if another process has it.
    """
    if parallel.rank() or sys.platform == "win32":
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UsageError(
                f"another process is training in {folder}", "wait for it, or stop it"
            ) from error
        yield
    finally:
        os.close(descriptor)
