"""A layer's decoding state as the native operations see it: addresses of its rows.

S: bytes of a stored row.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

Ring = tuple[int, int, int]
"""Address of a sequence's rows, their number, bytes of one."""
Part = tuple[Ring, Ring, int]
"""A compressor's values and gates, and the address of its entries."""
View = tuple[Ring, Part | None, Part | None]
"""One sequence: the window, the compressor, the indexer."""

_KEPT = "_addresses"


def addresses(state: Any, batch: int, end: int) -> list[View]:
    """Every sequence's rows of a `LayerState`, with room for positions below `end`.

    They are put together again only when a tensor of the state lies elsewhere than before.
    """
    rows = [state.window.rows]
    for part in (state.compressor, state.indexer):
        if part is not None:
            part.entries.reserve(end // state.ratio)
            rows += (part.values.rows, part.gates.rows, part.entries.rows)
    # By where they lie, not by which tensors they are: a copied state copies this too.
    places = [tensor.data_ptr() for tensor in rows]
    kept = state.__dict__.get(_KEPT)
    if kept is None or kept[0] != places:
        kept = state.__dict__[_KEPT] = (places, [_view(rows, b) for b in range(batch)])
    found: list[View] = kept[1]
    return found


def reached(state: Any, end: int) -> None:
    """Note that the state holds the positions below `end`."""
    state.window.reached(end)
    for part in (state.compressor, state.indexer):
        if part is not None:
            part.values.reached(end)
            part.gates.reached(end)


def _view(rows: list[Tensor], b: int) -> View:
    parts: list[Part | None] = [
        (_ring(values, b), _ring(gates, b), _ring(entries, b)[0])
        for values, gates, entries in zip(*[iter(rows[1:])] * 3, strict=True)
    ]
    parts += [None] * (2 - len(parts))
    return (_ring(rows[0], b), parts[0], parts[1])


def _ring(rows_BNS: Tensor, b: int) -> Ring:
    _, capacity, stored = rows_BNS.shape
    stride = stored * rows_BNS.element_size()
    return rows_BNS.data_ptr() + b * capacity * stride, capacity, stride
