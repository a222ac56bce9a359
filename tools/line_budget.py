"""Fail when a source file is longer than the hard cap; name those over the soft cap.

A file that outgrows its noun is split; the caps make that happen while it is still easy.
"""

from __future__ import annotations

import sys
from pathlib import Path

SOFT, HARD = 400, 700
ROOT = Path(__file__).resolve().parents[1]


def lengths(root: Path) -> list[tuple[int, Path]]:
    """(lines, path) of every Python file of the repository, longest first."""
    files = [
        path for top in ("src", "tests", "tools", "docs") for path in (root / top).rglob("*.py")
    ]
    counted = [(len(path.read_text(encoding="utf-8").splitlines()), path) for path in files]
    return sorted(counted, reverse=True)


def main() -> int:
    over = [(count, path) for count, path in lengths(ROOT) if count > SOFT]
    for count, path in over:
        level = "error" if count > HARD else "note"
        print(f"{level}: {path.relative_to(ROOT)} has {count} lines (soft {SOFT}, hard {HARD})")
    return int(any(count > HARD for count, _ in over))


if __name__ == "__main__":
    sys.exit(main())
