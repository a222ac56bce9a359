"""Whether stored numbers can be used: no NaN, no infinity, no expert that does not exist."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

from dsv4.checkpoint.folder import Reader, Stored, listing
from dsv4.checkpoint.plan import Plan, Source
from dsv4.errors import CheckpointError

FULL_CHECK_BYTES = 512 << 20
"""Checkpoints up to this size are read completely when loaded."""
SMALL_TENSOR_BYTES = 4 << 20
"""In larger ones, dense tensors (and scales) up to this size are."""

_CHUNK = 1 << 22


def check_values(plan: Plan, everything: bool | None = None) -> None:
    """Raise CheckpointError, listing them, if stored tensors hold numbers no model can have.

    NaN and infinity anywhere, and expert ids out of range. `everything`: read all of the
    checkpoint; None decides by its size, since a full read of a large one takes minutes.
    """
    if everything is None:
        everything = plan.nbytes <= FULL_CHECK_BYTES
    by_file: dict[Path, list[tuple[Stored, int | None]]] = {}
    for source in plan.sources:
        for stored, limit in _to_check(source, everything, plan.config.n_routed_experts):
            by_file.setdefault(stored.file, []).append((stored, limit))
    bad = []
    for entries in by_file.values():
        reader = Reader()  # one for each file, so that what was read is unmapped again
        for stored, limit in entries:
            fault = _fault(reader.tensor(stored), limit)
            if fault:
                bad.append(f"{stored.name}: {fault}")
    if bad:
        raise CheckpointError(
            f"{plan.folder}: {listing(bad, 'tensor')} with values no model can have",
            "the file is damaged, or the training that wrote it diverged",
        )


def _to_check(
    source: Source, everything: bool, experts: int
) -> Iterable[tuple[Stored, int | None]]:
    """(tensor, upper bound of its integers) of a source that are to be read."""
    if not source.parameter.dtype.is_floating_point:
        yield source.data, experts
        return
    for stored in (source.data, source.scale):
        if stored is None or stored.dtype == "I8":  # every FP4 code is a number
            continue
        if everything or (stored.nbytes <= SMALL_TENSOR_BYTES and not source.parameter.expert):
            yield stored, None


def _fault(tensor: Tensor, limit: int | None) -> str | None:
    """What is wrong with the values of a tensor, if anything."""
    for chunk in tensor.flatten().split(_CHUNK):
        if limit is not None:
            if chunk.numel() and not 0 <= int(chunk.min()) <= int(chunk.max()) < limit:
                return f"an expert id outside 0..{limit - 1}"
        elif not is_finite(chunk):
            return "NaN or infinite"
    return None


def is_finite(values: Tensor) -> bool:
    """Whether a float tensor of any dtype, 8-bit ones included, has neither NaN nor infinity."""
    if values.numel() == 0:
        return True
    if values.dtype == torch.float8_e4m3fn:
        return int(values.view(torch.int8).bitwise_or(-128).max()) != -1
    if values.dtype == torch.float8_e8m0fnu:
        return int(values.view(torch.uint8).max()) != 255
    return bool(values.isfinite().all())
