"""Loading a model for a command: a line of what happens, threads and memory that fit."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from dsv4.chat.model import Model

SMALL = 50_000_000
"""Active parameters below which one thread is faster: the matrices are too small to share, and
threads that wait for each other are many times slower when the machine has other work."""

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", re.IGNORECASE)
_UNITS = {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}


def load(
    model: str, numerics: str, threads: int | None = None, memory_limit: str | None = None
) -> Model:
    """`dsv4.load` with the resources a command was given.

    Kernels take `threads` threads, torch takes what is left to it: one under `fast`. Without a
    number a small model gets one thread, a large one a thread per core. Raises UsageError for
    numbers out of range.
    """
    import os

    import dsv4
    from dsv4.cli.console import status

    limit = None if memory_limit is None else parse_size(memory_limit)
    with status(f"loading {model}"):
        import torch

        from dsv4.model.cost import parameters
        from dsv4.ops.cpu import threads as pool

        pool.interleave()
        loaded = dsv4.load(model, numerics, memory_limit=limit)
    small = parameters(loaded.config).active < SMALL
    count = pool.use(1 if small and threads is None else threads)
    if numerics == "fast":
        torch.set_num_threads(1)
    elif threads is not None or (small and "OMP_NUM_THREADS" not in os.environ):
        torch.set_num_threads(count)
    return loaded


def read_key(file: Path | None) -> str | None:
    """The API key that a file holds; without a file there is none. Raises UsageError."""
    from dsv4.errors import UsageError

    try:
        return None if file is None else file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read {file}: {error}") from error


def parse_size(text: str) -> int:
    """Bytes meant by `12G`, `800M`, `1.5 GiB`: units are powers of 1024. Raises UsageError."""
    from dsv4.errors import UsageError

    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise UsageError(f"{text!r} is no size", "such as 12G, 800M or 1.5GiB")
    return int(float(match[1]) * (1 << _UNITS[match[2].upper()]))
