"""Stored numbers that no sound model has: NaN, dead tensors, odd scales, tables out of range.

Every tensor is read once, in the order of the files, through one buffer: memory does not grow with
the model, and the time is that of reading it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dsv4.checkpoint.folder import DTYPES, Reader, Stored
from dsv4.checkpoint.layout import TOKEN_MAP
from dsv4.checkpoint.plan import Plan, Source
from dsv4.checkpoint.values import read
from dsv4.evaluation.conformance.finding import Finding

BUFFER = 8 << 20
MOST_NAMED = 20
"""Tensors with the same fault that are named one by one; the others are counted."""

LARGEST_SCALE, SMALLEST_SCALE = 8, -40
"""Exponents of two: a block of a weight with a scale outside has numbers no initialisation or
training leads to (448 * 2^8, or below 2^-31)."""
WIDEST = 14
"""Scales further apart than this power of two lose numbers when FP4 is packed into FP8."""
EMPTY = 1
"""Up to this E8M0 code a scale belongs to a block of zeros, which says nothing."""
MAY_BE_ZERO = ("bias", "attn_sink", "ape", "_base", "engram.embed.weight", "conv.weight")
"""What training starts at zero, so that zero is a sound value."""


@dataclass(frozen=True, slots=True)
class Magnitudes:
    """Of a stored tensor, as bits without the sign: whether all are zero, whether one is NaN or
    infinite, and for scales the smallest and the largest as power of two."""

    dead: bool
    finite: bool
    low: float = 0.0
    high: float = 0.0
    whole: bool = False


def check_contents(
    plan: Plan, layers: int, done: Callable[[int, int], None] = lambda done, total: None
) -> list[Finding]:
    """What is wrong with the numbers of the first `layers` layers and all that is in none."""
    sources = [source for source in plan.sources if _layer(source) < layers]
    total, count = sum(source.nbytes for source in sources), 0
    places: dict[str, list[str]] = {
        kind: [] for kind in ("not finite", "dead", "odd", "wide", "whole")
    }
    found: list[Finding] = []
    buffer = bytearray(BUFFER)
    for source in sorted(sources, key=lambda source: (source.data.file, source.data.offset)):
        name = source.parameter.name
        if not source.parameter.dtype.is_floating_point:
            found += _table(plan, source)
        else:
            numbers = magnitudes(source.data, buffer)
            if not numbers.finite:
                places["not finite"].append(name)
            elif numbers.dead and not name.endswith(MAY_BE_ZERO):
                places["dead"].append(name)
        if source.scale is not None:
            scales = magnitudes(source.scale, buffer)
            if not scales.finite:
                places["not finite"].append(source.scale.name)
            elif scales.whole:
                places["whole"].append(source.scale.name)
            elif scales.high > LARGEST_SCALE or scales.low < SMALLEST_SCALE:
                places["odd"].append(source.scale.name)
            elif source.parameter.expert and scales.high - scales.low > WIDEST:
                places["wide"].append(source.scale.name)
        count += source.nbytes
        done(count, total)
    return found + [finding for kind, names in places.items() for finding in _findings(kind, names)]


def _findings(kind: str, names: Sequence[str]) -> Iterator[Finding]:
    for name in names[:MOST_NAMED]:
        yield replace(_KINDS[kind], where=name)
    if len(names) > MOST_NAMED:
        yield replace(_KINDS[kind], where=f"{len(names) - MOST_NAMED} more tensors")


_KINDS = {
    "not finite": Finding(
        "a NaN or an infinity is stored",
        "",
        hint="the file is damaged, or the training that wrote it diverged",
    ),
    "dead": Finding(
        "all its numbers are zero",
        "",
        hint="the tensor was never written, or a conversion lost it",
    ),
    "odd": Finding(
        f"block scales outside 2^{SMALLEST_SCALE} to 2^{LARGEST_SCALE}",
        "",
        "warning",
        resembles="scales-as-numbers",
        hint="scales may have been converted wrongly",
    ),
    "whole": Finding(
        "float32 scales are whole numbers above 1: E8M0 bytes copied as numbers",
        "",
        resembles="scales-as-numbers",
        hint="a byte b of E8M0 means 2 ** (b - 127)",
    ),
    "wide": Finding(
        f"expert scales more than 2^{WIDEST} apart",
        "",
        "note",
        hint="packing these experts into FP8 would round small blocks",
    ),
}
"""What is found of each kind, but for the place."""


def _layer(source: Source) -> int:
    """The number of a tensor's layer; -1 outside of layers."""
    first, _, rest = source.parameter.name.partition(".")
    return int(rest.partition(".")[0]) if first == "layers" else -1


_BITS = {
    torch.float32: (torch.int32, 0x7FFFFFFF, 0x7F800000),
    torch.float16: (torch.int16, 0x7FFF, 0x7C00),
    torch.bfloat16: (torch.int16, 0x7FFF, 0x7F80),
    torch.float8_e4m3fn: (torch.uint8, 0x7F, 0x7F),
    torch.float8_e8m0fnu: (torch.uint8, 0xFF, 0xFF),
    torch.int8: (torch.uint8, 0x77, 0x100),
}
"""dtype -> (integers of its size, all bits but the sign, the first pattern that is no number). Two
e2m1 values in a byte (int8) have two signs, and every pattern is a number."""


def magnitudes(stored: Stored, buffer: bytearray) -> Magnitudes:
    """Read a tensor once. Raises CheckpointError if its file cannot be read."""
    dtype = DTYPES[stored.dtype]
    integer, mask, first = _BITS[dtype]
    low, high, whole = first, 0, dtype == torch.float32
    for size in read(stored, buffer):
        bits = torch.frombuffer(buffer, dtype=torch.uint8, count=size).view(integer)
        bits = bits.bitwise_and(mask)
        high = max(high, int(bits.max()))
        if dtype == torch.float8_e8m0fnu:
            bits = bits[bits > EMPTY]
        low = min(low, int(bits.min())) if bits.numel() else low
        if whole:
            values = torch.frombuffer(buffer, dtype=torch.uint8, count=size).view(dtype)
            whole = bool((values > 1).all() and (values == values.round()).all())
    dead = high == 0 and dtype != torch.float8_e8m0fnu
    low = min(low, high)
    return Magnitudes(dead, high < first, _exponent(dtype, low), _exponent(dtype, high), whole)


def _exponent(dtype: torch.dtype, bits: int) -> float:
    """The exponent of the number with these bits; only scales are asked for."""
    if dtype == torch.float8_e8m0fnu:
        return bits - 127.0
    return (bits >> 23) - 127.0 if dtype == torch.float32 else 0.0


def _table(plan: Plan, source: Source) -> list[Finding]:
    """A table of expert or canonical ids: in range, and K different experts for a token."""
    name = source.parameter.name
    table: Tensor = Reader().tensor(source.data).long()
    engram = plan.config.engram
    is_map = name == TOKEN_MAP and engram is not None
    limit = engram.compressed_vocab_size if is_map and engram else plan.config.n_routed_experts
    low, high = int(table.min()), int(table.max())
    if low < 0 or high >= limit:
        what = f"ids from {low} to {high}, allowed are 0 to {limit - 1}"
        return [Finding(what, name, hint="the table is damaged, or of another model")]
    if is_map:
        return []
    ordered = table.sort(dim=1).values
    twice = int((ordered[:, 1:] == ordered[:, :-1]).any(1).sum())
    if twice:
        what = f"{twice} of {len(table)} tokens are given the same expert twice"
        return [Finding(what, name, "warning", hint="such tokens use fewer experts")]
    return []
