"""Threads as they were after every test here: measurements choose them."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from dsv4.chat.model import Model, load
from dsv4.evaluation.machine import Ceilings
from dsv4.evaluation.sandbox.confine import LANDLOCK_CREATE
from dsv4.ops.cpu import kernels


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    native = kernels and kernels.thread_count()
    yield
    torch.set_num_threads(before)
    if kernels is not None:
        kernels.set_thread_count(native)


@pytest.fixture(scope="session")
def fast(tiny_folder: Path) -> Model:
    return load(tiny_folder, "fast")


@pytest.fixture
def ceilings() -> Ceilings:
    """A made-up machine: 10 GB/s, 100 GFLOP/s."""
    return Ceilings(threads=1, read_bytes=10e9, f32_flops=50e9, bf16_flops=100e9)


@pytest.fixture(scope="session")
def confined() -> None:
    """Skips where the kernel has no Landlock: there the sandbox refuses to run anything."""
    asked_version = ctypes.c_uint(1)
    if sys.platform != "linux" or (
        ctypes.CDLL(None).syscall(LANDLOCK_CREATE, None, ctypes.c_size_t(0), asked_version) < 1
    ):
        pytest.skip("the kernel has no Landlock")
