"""Python functions that were not trained on, from the interpreter's standard library."""

from __future__ import annotations

import ast
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from dsv4.data.corpora import HELD_OUT_RECORDS
from dsv4.data.documents import Text
from dsv4.tasks.problem import is_held_out

LARGE = 16_000
"""Bytes up to which `dsv4.data.corpora` reads a module for training."""

SHORT, LONG = 200, 4000
"""Characters of the functions that are taken."""

_SKIPPED = {"test", "tests", "idlelib", "site-packages", "lib2to3"}


def functions() -> Iterator[Text]:
    """Functions and methods of large modules that belong to the held-out split: out of reach for a
    mix that reads modules of any size with a split, or small ones without."""
    root = Path(sysconfig.get_path("stdlib"))
    for path in sorted(root.rglob("*.py")):
        if _SKIPPED & set(path.relative_to(root).parts) or path.stat().st_size <= LARGE:
            continue
        source = path.read_text(encoding="utf-8", errors="replace").strip()
        if is_held_out(source, HELD_OUT_RECORDS):
            yield from _functions(source)


def _functions(source: str) -> Iterator[Text]:
    """The outermost functions of a module, decorators left out, moved to the left margin."""
    lines = source.split("\n")
    open_nodes: list[ast.AST] = [ast.parse(source)]
    while open_nodes:
        node = open_nodes.pop(0)
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            open_nodes = [*ast.iter_child_nodes(node), *open_nodes]
            continue
        assert node.end_lineno is not None
        margin = " " * node.col_offset
        part = lines[node.lineno - 1 : node.end_lineno]
        text = "\n".join(line.removeprefix(margin) for line in part)
        if SHORT <= len(text) <= LONG:
            yield Text(text)
