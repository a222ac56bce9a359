"""The prefix cache: finished blocks in memory, and below them on disk if there is a store.

Blocks form a tree: a block's parent is the one before it. Some carry the tail of a state that ends
with them (rows of its rings); from there a sequence can go on. Blocks that a running sequence
uses are pinned; of the others the least recently used leaves go first when room is needed.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from dsv4.cache.record import Kind
from dsv4.cache.store import Stats
from dsv4.model.blocks import BLOCK

MOST_STALE = 1024
"""Entries out of date that a heap of leaves may hold, besides two per block."""


class Store(Protocol):
    """Where blocks and tails outlive the process."""

    def contains(self, kind: Kind, key: bytes) -> bool: ...
    def get(self, kind: Kind, key: bytes) -> bytearray | None: ...
    def get_many(self, kind: Kind, keys: Sequence[bytes]) -> list[bytearray]: ...
    def put(self, kind: Kind, key: bytes, parts: Sequence[memoryview]) -> None: ...
    def touch(self, kind: Kind, keys: Sequence[bytes]) -> None: ...
    def close(self) -> None: ...
    @property
    def stats(self) -> Stats: ...


@dataclass(slots=True, eq=False)
class Node:
    """A cached block. `tail` is what a state needs besides the blocks to go on after it."""

    key: bytes
    parent: Node | None
    block: Tensor
    tail: Tensor | None = None
    children: int = 0
    pins: int = 0
    used: int = 0

    @property
    def nbytes(self) -> int:
        return self.block.nbytes + (self.tail.nbytes if self.tail is not None else 0)


@dataclass(frozen=True, slots=True)
class Hit:
    """Where a sequence goes on: after `length` tokens, with the blocks of `nodes` (pinned).

    `tail` None: the rings are unknown; nodes reach further than `length`, far enough to compute
    the rings again.
    """

    nodes: list[Node]
    length: int
    tail: Tensor | None


class PrefixCache:
    """Blocks and tails by key. `blind`: tokens after which rings that began empty are right again,
    None if that cannot be used."""

    def __init__(self, store: Store | None = None, blind: int | None = None) -> None:
        self.store, self.blind = store, blind
        self.bytes = 0
        self._in_use = 0  # bytes of pinned blocks
        self._nodes: dict[bytes, Node] = {}
        self._leaves: list[tuple[int, bytes]] = []  # a heap; entries may be out of date
        self._clock = itertools.count(1)

    def __len__(self) -> int:
        return len(self._nodes)

    @property
    def evictable(self) -> int:
        """Bytes that `evict` can free: all but blocks in use. A block in use has all before it in
        use."""
        return self.bytes - self._in_use

    @property
    def pins(self) -> int:
        """How often blocks are in use by running sequences."""
        return sum(node.pins for node in self._nodes.values())

    def find(self, keys: Sequence[bytes]) -> Hit:
        """The way to compute the fewest tokens of a sequence that begins with blocks of these
        keys. What it names is pinned until `release`."""
        hit = self._find(keys)
        if self.store is not None and hit.nodes:
            self._store_again(self.store, hit)
        return hit

    def _store_again(self, store: Store, hit: Hit) -> None:
        """Let what is used stay on disk; what the store had no time for is offered again."""
        store.touch("block", [node.key for node in hit.nodes])
        store.touch("window", [hit.nodes[-1].key])
        for node in hit.nodes:
            if not store.contains("block", node.key):
                store.put("block", node.key, [_bytes(node.block)])

    def _find(self, keys: Sequence[bytes]) -> Hit:
        unreadable: set[bytes] = set()  # tails; a record may be there and still not be read
        while True:
            matched = self.reach(keys)
            with_tail = matched
            while with_tail and (
                keys[with_tail - 1] in unreadable or not self._has_tail(keys[with_tail - 1])
            ):
                with_tail -= 1
            blindly = matched * BLOCK - self.blind if self.blind is not None else 0
            wanted = matched if blindly > with_tail * BLOCK else with_tail
            nodes = self._load(keys[:wanted])
            if len(nodes) == wanted:
                if wanted != with_tail:
                    return Hit(nodes, blindly, None)
                if not nodes:
                    return Hit([], 0, None)
                tail = self._load_tail(nodes[-1])
                if tail is not None:
                    return Hit(nodes, wanted * BLOCK, tail)
                unreadable.add(keys[wanted - 1])
            else:
                keys = keys[: len(nodes)]
            self.release(nodes)  # look again without what could not be read

    def reach(self, keys: Sequence[bytes]) -> int:
        """How many of the first blocks are known, with tails or without."""
        found = 0
        while found < len(keys) and self._has_block(keys[found]):
            found += 1
        return found

    def publish(self, parent: Node | None, key: bytes, block: Tensor) -> Node:
        """Take a finished block, pinned for the caller; an equal one that is here is given."""
        node = self._nodes.get(key)
        if node is None:
            node = self._insert(parent, key, block)
            if self.store is not None:
                self.store.put("block", key, [_bytes(block)])
        self._pin(node)
        return node

    def has_tail(self, node: Node) -> bool:
        return self._has_tail(node.key)

    def put_tail(self, node: Node, tail: Tensor) -> None:
        """Let sequences go on after a block."""
        if node.tail is None:
            self._add_tail(node, tail)
            if self.store is not None:
                self.store.put("window", node.key, [_bytes(tail)])

    def release(self, nodes: Sequence[Node]) -> None:
        """Unpin blocks; they stay until room is needed."""
        now = next(self._clock)
        for node in nodes:
            node.pins -= 1
            assert node.pins >= 0
            self._in_use -= 0 if node.pins else node.block.nbytes
            self._touch(node, now)

    def evict(self, wanted: int) -> int:
        """Give up least recently used leaves until `wanted` bytes are free, and then tails of
        blocks in use, from the front; the bytes freed."""
        freed = 0
        while freed < wanted and self._leaves:
            used, key = heapq.heappop(self._leaves)
            node = self._nodes.get(key)
            if node is None or node.used != used or node.pins or node.children:
                continue
            freed += node.nbytes
            self._remove(node)
        if freed < wanted:
            for node in self._nodes.values():
                if node.tail is not None and freed < wanted:
                    freed += node.tail.nbytes
                    self.bytes -= node.tail.nbytes
                    node.tail = None
        return freed

    def check(self) -> list[str]:
        """What is inconsistent: nothing, unless there is a bug."""
        problems = []
        if self.bytes != sum(node.nbytes for node in self._nodes.values()):
            problems.append("prefix cache: wrong number of bytes")
        if self._in_use != sum(node.block.nbytes for node in self._nodes.values() if node.pins):
            problems.append("prefix cache: wrong number of bytes in use")
        children: dict[bytes, int] = {}
        for node in self._nodes.values():
            if node.parent is not None:
                if self._nodes.get(node.parent.key) is not node.parent:
                    problems.append("prefix cache: a block without its parent")
                children[node.parent.key] = children.get(node.parent.key, 0) + 1
        if any(children.get(node.key, 0) != node.children for node in self._nodes.values()):
            problems.append("prefix cache: wrong number of children")
        return problems

    def _has_block(self, key: bytes) -> bool:
        return key in self._nodes or (self.store is not None and self.store.contains("block", key))

    def _has_tail(self, key: bytes) -> bool:
        node = self._nodes.get(key)
        return (node is not None and node.tail is not None) or (
            self.store is not None and self.store.contains("window", key)
        )

    def _load(self, keys: Sequence[bytes]) -> list[Node]:
        """The nodes of these keys, pinned, as far as they can be had."""
        # A block that is here has its parent here.
        nodes = [self._nodes[key] for key in keys if key in self._nodes]
        rest = keys[len(nodes) :]
        if rest and self.store is not None:
            for key, data in zip(rest, self.store.get_many("block", rest), strict=False):
                block = torch.frombuffer(data, dtype=torch.uint8).view(1, -1)
                nodes.append(self._insert(nodes[-1] if nodes else None, key, block))
        for node in nodes:
            self._pin(node)
        return nodes

    def _load_tail(self, node: Node) -> Tensor | None:
        if node.tail is None and self.store is not None:
            data = self.store.get("window", node.key)
            if data is not None:
                self._add_tail(node, torch.frombuffer(data, dtype=torch.uint8))
        return node.tail

    def _insert(self, parent: Node | None, key: bytes, block: Tensor) -> Node:
        node = self._nodes[key] = Node(key, parent, block)
        if parent is not None:
            parent.children += 1
        self.bytes += block.nbytes
        return node

    def _add_tail(self, node: Node, tail: Tensor) -> None:
        node.tail = tail
        self.bytes += tail.nbytes

    def _pin(self, node: Node) -> None:
        self._in_use += 0 if node.pins else node.block.nbytes
        node.pins += 1
        node.used = next(self._clock)

    def _touch(self, node: Node, now: int) -> None:
        node.used = now
        if not node.pins and not node.children:
            heapq.heappush(self._leaves, (now, node.key))
            if len(self._leaves) > 2 * len(self._nodes) + MOST_STALE:
                nodes = self._nodes.values()
                self._leaves = [(n.used, n.key) for n in nodes if not n.pins and not n.children]
                heapq.heapify(self._leaves)

    def _remove(self, node: Node) -> None:
        del self._nodes[node.key]
        self.bytes -= node.nbytes
        parent = node.parent
        if parent is not None:
            parent.children -= 1
            self._touch(parent, parent.used)


def _bytes(tensor: Tensor) -> memoryview:
    return memoryview(tensor.flatten().numpy())  # type: ignore[arg-type]
