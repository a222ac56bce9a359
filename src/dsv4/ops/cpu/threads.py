"""How many threads the kernels use, and where the memory they read lies."""

from __future__ import annotations

import ctypes
import logging
import os
import platform
from pathlib import Path

from dsv4.errors import UsageError
from dsv4.ops.cpu.native import native

logger = logging.getLogger("dsv4.ops")

MOST = 1024

_CPUS = Path("/sys/devices/system/cpu")
_NODES = Path("/sys/devices/system/node")
_SET_MEMPOLICY = {"x86_64": 238, "aarch64": 237}
_INTERLEAVE = 3


def cores() -> int:
    """Physical cores this process may run on; processors, where the system does not tell."""
    try:
        allowed = os.sched_getaffinity(0)
    except AttributeError:  # not on this system
        return os.cpu_count() or 1
    found = set()
    for cpu in allowed:
        try:
            topology = _CPUS / f"cpu{cpu}" / "topology"
            place = [(topology / name).read_text() for name in ("physical_package_id", "core_id")]
        except OSError:
            return len(allowed)
        found.add(tuple(place))
    return len(found)


def default() -> int:
    """Threads if nobody says otherwise: OMP_NUM_THREADS, as torch reads it, or one per core."""
    told = os.environ.get("OMP_NUM_THREADS", "")
    return min(int(told), MOST) if told.isdecimal() and int(told) > 0 else cores()


def use(threads: int | None) -> int:
    """Let the kernels run on `threads` threads (None: as `default` says); returns their number.

    Raises UsageError for a number out of range. Torch keeps its own pool: set it to one thread
    where the kernels do the work, or both pools compete for the cores.
    """
    if threads is not None and not 1 <= threads <= MOST:
        raise UsageError(f"{threads} threads are out of range", f"1 to {MOST}")
    count = default() if threads is None else threads
    if native is not None:
        native.set_thread_count(count)
    return count


def nodes() -> int:
    """Memory nodes of this machine (NUMA); 1 where the system does not tell."""
    try:
        ranges = (_NODES / "online").read_text().strip().split(",")
        return sum(1 + int(r.split("-")[-1]) - int(r.split("-")[0]) for r in ranges)
    except (OSError, ValueError):
        return 1


def interleave() -> bool:
    """On a machine of several memory nodes, place pages touched from now on in turn on all.

    Threads take rows as they come, so no thread owns a part of a weight; spread evenly, every
    node's bandwidth is used. Returns whether anything was done.
    """
    count = nodes()
    number = _SET_MEMPOLICY.get(platform.machine())
    if count < 2 or number is None:
        return False
    mask = ctypes.c_ulong((1 << count) - 1)
    failed = ctypes.CDLL(None, use_errno=True).syscall(
        ctypes.c_long(number), ctypes.c_int(_INTERLEAVE), ctypes.byref(mask), ctypes.c_ulong(65)
    )
    if failed:
        logger.warning("memory stays where it falls: %s", os.strerror(ctypes.get_errno()))
    return not failed
