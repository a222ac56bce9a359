"""Whether stored numbers can be used: no NaN, no infinity, no expert that does not exist."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from dsv4.checkpoint.folder import DTYPES, Stored, listing
from dsv4.checkpoint.layout import TOKEN_MAP
from dsv4.checkpoint.plan import Plan, Source
from dsv4.errors import CheckpointError

SMALL_TENSOR_BYTES = 4 << 20
"""Dense tensors up to this size are always read when a checkpoint is loaded."""
READ_BYTES = 1 << 30
"""Of everything else, this much is: seconds of reading, while all of Flash would be minutes."""

_CHUNK_BYTES = 8 << 20

# What is read first if not everything is. The scales of the experts hold all the NaN that FP4
# weights can have, in 1/17 of their bytes.
_ALWAYS, _EXPERT_SCALES, _DENSE, _EXPERTS = range(4)


@dataclass(frozen=True, slots=True)
class _Check:
    """A tensor to look at; `limit` bounds its integers (None: it holds floats)."""

    stored: Stored
    rank: int
    limit: int | None = None


def check_values(plan: Plan, everything: bool | None = None) -> tuple[str, ...]:
    """Raise CheckpointError, listing them, if stored tensors hold numbers no model can have.

    NaN and infinity anywhere, and expert ids out of range. Always read: routing tables, small
    dense tensors and all block scales of dense matrices. Then `READ_BYTES` of the rest: the
    experts' scales, large dense tensors, experts that are not FP4 (every FP4 code is a number);
    all of it if `everything` is True, none if it is False. Returns what there is to say about
    tensors that were not read.
    """
    checks = [check for source in plan.sources for check in _checks(source, plan)]
    chosen = [check for check in checks if check.rank == _ALWAYS]
    left = READ_BYTES
    for rank in (_EXPERT_SCALES, _DENSE, _EXPERTS):
        group = [check for check in checks if check.rank == rank]
        if everything is None:
            group = _spread(group, left)
            left -= sum(check.stored.nbytes for check in group)
        chosen += group if everything is not False else []
    bad = _faults(chosen)
    if bad:
        raise CheckpointError(
            f"{plan.folder}: {listing(bad, 'tensor')} with values no model can have",
            "the file is damaged, or the training that wrote it diverged",
        )
    unread = sum(c.stored.nbytes for c in checks) - sum(c.stored.nbytes for c in chosen)
    if not unread:
        return ()
    return (
        f"{unread / 2**30:.2f} GiB of expert scales and large tensors were not looked through "
        "for NaN, which would take long; load_with_report(check_all_values=True) does",
    )


def _checks(source: Source, plan: Plan) -> list[_Check]:
    """What could be wrong with the tensors of a source, and how soon it is looked at."""
    expert = source.parameter.expert
    if not source.parameter.dtype.is_floating_point:
        return [_Check(source.data, _ALWAYS, _limit(source, plan))]
    checks = []
    if source.scale is not None:
        checks.append(_Check(source.scale, _EXPERT_SCALES if expert else _ALWAYS))
    if source.data.dtype != "I8":  # every FP4 code is a number
        small = source.data.nbytes <= SMALL_TENSOR_BYTES
        checks.append(_Check(source.data, _EXPERTS if expert else _ALWAYS if small else _DENSE))
    return checks


def _limit(source: Source, plan: Plan) -> int:
    """One more than the largest integer that a table of expert or canonical ids may hold."""
    engram = plan.config.engram
    if source.parameter.name == TOKEN_MAP and engram is not None:
        return engram.compressed_vocab_size
    return plan.config.n_routed_experts


def _spread(checks: list[_Check], budget: int) -> list[_Check]:
    """Checks of at most `budget` bytes, taken from all over the model."""
    total = sum(check.stored.nbytes for check in checks)
    if total <= budget:
        return checks
    chosen, seen, taken = [], 0, 0
    for check in checks:
        seen += check.stored.nbytes
        if (taken + check.stored.nbytes) * total <= seen * budget:
            chosen.append(check)
            taken += check.stored.nbytes
    return chosen


def _faults(checks: list[_Check]) -> list[str]:
    """`name: what is wrong` of every check that fails, reading the files in their order."""
    buffer = bytearray(_CHUNK_BYTES)
    bad = []
    for check in sorted(checks, key=lambda check: (check.stored.file, check.stored.offset)):
        fault = _fault(check, buffer)
        if fault is not None:
            bad.append(f"{check.stored.name}: {fault}")
    return bad


def _fault(check: _Check, buffer: bytearray) -> str | None:
    """What is wrong with the values of a tensor, if anything.

    They are read into `buffer`, not mapped: pages that a mapping reads would count as ours.
    """
    dtype, limit = DTYPES[check.stored.dtype], check.limit
    for size in read(check.stored, buffer):
        chunk = torch.frombuffer(buffer, dtype=torch.uint8, count=size).view(dtype)
        if limit is not None:
            if not 0 <= int(chunk.min()) <= int(chunk.max()) < limit:
                return f"an id outside 0..{limit - 1}"
        elif not is_finite(chunk):
            return "NaN or infinite"
    return None


def read(stored: Stored, buffer: bytearray) -> Iterator[int]:
    """Fill `buffer` with one part of a tensor after the other; yields the sizes in bytes. Raises
    CheckpointError if the file cannot be read."""
    left = stored.nbytes
    try:
        with stored.file.open("rb") as file:
            file.seek(stored.offset)
            while left:
                size = file.readinto(memoryview(buffer)[: min(left, len(buffer))])
                if size < min(left, len(buffer)):
                    raise CheckpointError(f"{stored.file} became shorter while it was read")
                left -= size
                yield size
    except OSError as error:
        raise CheckpointError(f"{stored.file} cannot be read: {error.strerror or error}") from error


def is_finite(values: Tensor) -> bool:
    """Whether a float tensor of any dtype, 8-bit ones included, has neither NaN nor infinity."""
    if values.numel() == 0:
        return True
    if values.dtype == torch.float8_e4m3fn:
        return int(values.view(torch.int8).bitwise_or(-128).max()) != -1
    if values.dtype == torch.float8_e8m0fnu:
        return int(values.view(torch.uint8).max()) != 255
    return bool(values.isfinite().all())
