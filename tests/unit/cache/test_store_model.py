"""Random operations on a store, compared with a dictionary."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from tests.unit.cache.records import BINDING, PLENTY, key_of

from dsv4.cache.folder import record_path
from dsv4.cache.record import Name
from dsv4.cache.store import Kind, Store

BINDINGS = (BINDING, b"other weights")
KINDS: tuple[Kind, ...] = ("block", "window")
NUMBERS = st.integers(0, 9)
kinds = st.sampled_from(KINDS)


def content(kind: Kind, number: int, binding: bytes) -> bytes:
    return (binding + kind.encode() + b"%d" % number) * (number * number * 20)


class Operations(RuleBasedStateMachine):
    """`known`: for each binding, the records that must be there (with room for all) or may be
    (with little)."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.known: dict[bytes, set[tuple[Kind, int]]] = {binding: set() for binding in BINDINGS}

    @initialize(capacity=st.sampled_from([PLENTY, 300_000, 60_000]))
    def open(self, capacity: int) -> None:
        self.capacity, self.binding = capacity, BINDING
        self.store = Store(self.folder, BINDING, capacity, readers=2)

    def check(self, kind: Kind, number: int, got: bytes | bytearray | None) -> None:
        known = (kind, number) in self.known[self.binding]
        if got is None:
            assert not known or self.capacity < PLENTY
            self.known[self.binding].discard((kind, number))
        else:
            assert known and got == content(kind, number, self.binding)

    @rule(kind=kinds, number=NUMBERS, flush=st.booleans())
    def put(self, kind: Kind, number: int, flush: bool) -> None:
        whole = content(kind, number, self.binding)
        self.store.put(kind, key_of(number), [whole[:7], memoryview(whole)[7:]])
        self.known[self.binding].add((kind, number))
        assert not flush or self.store.flush(30)

    @rule(kind=kinds, number=NUMBERS)
    def get(self, kind: Kind, number: int) -> None:
        expected = self.store.contains(kind, key_of(number))
        got = self.store.get(kind, key_of(number))
        assert expected or got is None
        self.check(kind, number, got)

    @rule(kind=kinds, numbers=st.lists(NUMBERS, max_size=6))
    def get_many(self, kind: Kind, numbers: list[int]) -> None:
        got = self.store.get_many(kind, [key_of(number) for number in numbers])
        for number, payload in zip(numbers, got, strict=False):
            self.check(kind, number, payload)
        if len(got) < len(numbers) and self.capacity == PLENTY:
            self.check(kind, numbers[len(got)], None)

    @rule(binding=st.sampled_from(BINDINGS))
    def reopen(self, binding: bytes) -> None:
        self.store.close()
        self.binding = binding
        self.store = Store(self.folder, binding, self.capacity, readers=2)

    @rule(
        binding=st.sampled_from(BINDINGS),
        kind=kinds,
        number=NUMBERS,
        at=st.integers(0, 2**16),
        flip=st.integers(1, 255),
        cut=st.booleans(),
    )
    def damage(
        self, binding: bytes, kind: Kind, number: int, at: int, flip: int, cut: bool
    ) -> None:
        """The record is then gone, and once anyone has asked for it, so is its file."""
        assert self.store.flush(30)
        path = Path(record_path(str(self.folder), binding.hex(), Name(kind, key_of(number))))
        if not path.exists():
            return
        damaged = bytearray(path.read_bytes())
        at %= len(damaged)
        damaged[at] ^= flip
        path.write_bytes(damaged[:at] if cut else damaged)
        self.known[binding].discard((kind, number))
        if binding == self.binding:
            assert self.store.get(kind, key_of(number)) is None and not path.exists()

    @invariant()
    def within_capacity(self) -> None:
        if hasattr(self, "store"):
            assert self.store.stats.bytes <= self.capacity and self.store.stats.dropped == 0

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.store.close()
            shutil.rmtree(self.folder)


TestOperations = Operations.TestCase
TestOperations.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
