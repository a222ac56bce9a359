"""A layer's decoding state as the native operations see it: addresses of its rows."""

from __future__ import annotations

from typing import Any

from dsv4.ops.cpu.native import native

_KEPT = "_views"


def views(state: Any) -> list[Any]:
    """A `LayerView` for every sequence of a `LayerState`.

    Rings stay where they are; the views are put together again when the table of blocks has moved.
    """
    place = state.table.addresses.data_ptr()
    kept = state.__dict__.get(_KEPT)
    if kept is None or kept[0] != place:
        made = [_view(state, b) for b in range(state.window.rows.shape[0])]
        kept = state.__dict__[_KEPT] = (place, made)
    found: list[Any] = kept[1]
    return found


def reached(state: Any, end: int) -> None:
    """Note that the state holds the positions below `end`."""
    state.window.reached(end)
    for part in (state.compressor, state.indexer):
        if part is not None:
            part.values.reached(end)
            part.gates.reached(end)


def rings(ring: Any) -> list[tuple[int, int, int]]:
    """Every sequence's rows of a `Ring`."""
    return [_ring(ring, b) for b in range(ring.rows.shape[0])]


def _view(state: Any, b: int) -> Any:
    return native.LayerView(
        _ring(state.window, b), _part(state.compressor, b), _part(state.indexer, b)
    )


def _part(part: Any, b: int) -> Any:
    """A compressor's values and gates, and where its entries lie."""
    if part is None:
        return None
    entries = part.entries
    section, addresses = entries.section, entries.table.addresses
    blocks = addresses.data_ptr() + b * addresses.shape[1] * addresses.element_size()
    shift = section.count.bit_length() - 1
    return (
        _ring(part.values, b),
        _ring(part.gates, b),
        (blocks, section.offset, shift, section.stride),
    )


def _ring(ring: Any, b: int) -> tuple[int, int, int]:
    """Address of a sequence's rows, their number, bytes of one."""
    _, capacity, stored = ring.rows.shape
    stride = stored * ring.rows.element_size()
    return ring.rows.data_ptr() + b * capacity * stride, capacity, stride
