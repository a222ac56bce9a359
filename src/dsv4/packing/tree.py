"""The tree of a codebase, as text."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile

from dsv4.packing.order import order
from dsv4.packing.walk import Skipped

_SHOWN = {
    "binary": "binary",
    "large": "too large",
    "link": "a link",
    "empty": "empty",
    "unreadable": "unreadable",
    "budget": "left out",
}
"""Kinds of skipped files that are shown. What is ignored is no part of a codebase, and secrets are
not even named."""


def tree(name: str, paths: Sequence[str], skipped: Sequence[Skipped]) -> str:
    """Every folder and file on a line of its own, two spaces deeper than what it is in; of what is
    left out it says why."""
    why = {one.path: _SHOWN[one.kind] for one in skipped if one.kind in _SHOWN}
    lines = [f"{name}/"]
    above: tuple[str, ...] = ()
    for path in sorted([*paths, *why], key=lambda path: order(path)[1:]):
        *folder, last = path.rstrip("/").split("/")
        parts = tuple(folder)
        same = takewhile(lambda pair: pair[0] == pair[1], zip(above, parts, strict=False))
        kept = sum(1 for _ in same)
        lines += [f"{'  ' * (i + 1)}{parts[i]}/" for i in range(kept, len(parts))]
        above = parts
        end = "/" if path.endswith("/") else ""
        note = f" ({why[path]})" if path in why else ""
        lines.append(f"{'  ' * (len(parts) + 1)}{last}{end}{note}")
    return "\n".join(lines) + "\n"
