"""One process at a time in a run folder."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from dsv4 import parallel
from dsv4.errors import UsageError

logger = logging.getLogger("dsv4.training")

if sys.platform != "win32":
    import fcntl


@contextlib.contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Have a run folder for this process (the first of several) inside a `with` block.

    Raises UsageError if another process has it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
    try:
        if parallel.any_of(parallel.rank() == 0 and not _locked(descriptor)):
            raise UsageError(f"another process is training in {folder}", "wait for it, or stop it")
        yield
    finally:
        os.close(descriptor)


def _locked(descriptor: int) -> bool:
    """Lock an open file, as far as it can be here; whether no other process has it."""
    if sys.platform == "win32":
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        logger.warning("this folder can not be locked (%s): train in it once at a time", error)
    return True
