"""Records whose content follows from their number, and what a folder holds of them."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dsv4.cache.store import Kind, Store

BINDING = b"weights and configuration"
PLENTY = 2**30


def kind_of(number: int) -> Kind:
    return "window" if number % 4 == 0 else "block"


def key_of(number: int) -> bytes:
    return hashlib.sha256(number.to_bytes(8, "little")).digest()


def payload_of(number: int, most: int = 20_000) -> bytes:
    draw = random.Random(number)
    return draw.randbytes(draw.randrange(most))


@contextmanager
def opened(folder: Path, capacity: int = PLENTY, **options: Any) -> Iterator[Store]:
    """A store that is closed at the end; options: binding, backlog, readers."""
    store = Store(folder, options.pop("binding", BINDING), capacity, **options)
    try:
        yield store
    finally:
        store.close()


def put(store: Store, *numbers: int) -> None:
    for number in numbers:
        store.put(kind_of(number), key_of(number), [payload_of(number)])
    assert store.flush(30)


def present(store: Store, numbers: range) -> list[int]:
    return [i for i in numbers if store.contains(kind_of(i), key_of(i))]


def files(folder: Path) -> list[Path]:
    """All files but the lock."""
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "lock")
