"""What this machine can do at most, with the threads that a measurement uses."""

from __future__ import annotations

import dataclasses
import platform
import resource
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from dsv4.numerics.policy import FAST, Numerics
from dsv4.ops.cpu import kernels
from dsv4.ops.cpu import threads as pool

BUFFER = 512 << 20
"""Bytes read in one pass: many times what caches hold."""
MATRIX = 2048
"""Rows and columns of the matrices of the GEMM measurement."""
ROUNDS = 7
"""Measurements of which the median counts."""
HOPELESS = 0.1
"""A bfloat16 GEMM below this share of the float32 rate is emulated, and no ceiling."""


@dataclass(frozen=True, slots=True)
class Ceilings:
    """Measured upper bounds: bytes read per second, float32 and bfloat16 GEMM FLOPs per second.

    Medians; `best_read_bytes` is the fastest pass, which tells how much the machine varies (others
    may share its memory). `bf16_flops` is 0 where it was not asked for or the machine has no such
    instructions.
    """

    threads: int
    read_bytes: float
    f32_flops: float
    bf16_flops: float = 0.0
    best_read_bytes: float = 0.0

    @property
    def flops(self) -> float:
        """The faster of the GEMM rates."""
        return max(self.f32_flops, self.bf16_flops)


def use_threads(count: int, numerics: Numerics) -> None:
    """Compute with `count` threads under a policy.

    The native kernels have their own pool; beside them torch gets one thread, so that two pools
    never wait for the same cores.
    """
    native = numerics is FAST and kernels is not None
    pool.use(count if native else 1)
    torch.set_num_threads(1 if native else count)


def ceilings(threads: int, *, bf16: bool = True) -> Ceilings:
    """Measure them, in about three seconds. Leaves torch and the kernels with `threads` threads."""
    torch.set_num_threads(threads)
    f32 = _gemm_rate(torch.float32)
    read, best = _read_rates(threads)
    return Ceilings(threads, read, f32, _bf16_rate(f32) if bf16 else 0.0, best)


def reread(before: Ceilings) -> Ceilings:
    """The same machine after a measurement: memory read once more, and the mean of both readings.

    Memory that others use too can be a third slower or faster a minute later. Starts the process's
    high-water mark anew, since the pass needs memory.
    """
    read, best = _read_rates(before.threads)
    reset_peak()
    return dataclasses.replace(
        before,
        read_bytes=(before.read_bytes + read) / 2,
        best_read_bytes=max(before.best_read_bytes, best),
    )


def _read_rates(threads: int) -> tuple[float, float]:
    """Bytes per second of the median pass and of the fastest."""
    buffer = torch.ones(BUFFER, dtype=torch.uint8)
    values = buffer.view(torch.float32)
    pool.use(threads)

    def read() -> None:
        if kernels is None:
            values.sum()
        else:
            kernels.read_pass(buffer.data_ptr(), BUFFER)

    seconds = _seconds(read, 3 * ROUNDS)
    return BUFFER / statistics.median(seconds), BUFFER / min(seconds)


def _bf16_rate(f32: float) -> float:
    """The bfloat16 GEMM rate, or 0 if a small one shows that it is emulated."""
    small = _gemm_rate(torch.bfloat16, MATRIX // 4)
    return 0.0 if small < HOPELESS * f32 else _gemm_rate(torch.bfloat16)


def _gemm_rate(dtype: torch.dtype, size: int = MATRIX, rounds: int = ROUNDS) -> float:
    a, b = (torch.randn(size, size, dtype=dtype) for _ in range(2))
    return 2 * size**3 / statistics.median(_seconds(lambda: a @ b, rounds))


def _seconds(work: Callable[[], object], rounds: int) -> list[float]:
    work()
    seconds = []
    for _ in range(rounds):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return seconds


def peak_bytes() -> int:
    """The process's high-water mark of resident memory, mapped files included."""
    try:
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def reset_peak() -> None:
    """Start the high-water mark anew, where the system lets a process do that (Linux)."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return


def describe() -> str:
    """The processor's name as the system gives it, and how many cores are in use."""
    name = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                name = line.partition(":")[2].strip()
                break
    except OSError:
        pass
    count = pool.cores()
    return f"{name}, {count} core{'s' * (count != 1)}"
