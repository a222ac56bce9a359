"""Where decoding states live: one budget for running sequences and for what is kept of others.

A sequence that is admitted goes on from the longest prefix somebody computed; blocks that it
finishes become shared at once; when it leaves, for good or to make room, what it computed stays
until room is needed.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from dsv4.cache.keys import Chain
from dsv4.cache.prefix import PrefixCache, Store
from dsv4.cache.store import Stats
from dsv4.engine.sequence import Sequence
from dsv4.errors import UsageError
from dsv4.model.blocks import BLOCK
from dsv4.model.transformer import Transformer

HEADROOM = 1
"""Blocks besides those of its ids that a sequence is to find free when it is admitted."""


def default_capacity() -> int:
    """A quarter of the machine's memory, in bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 4


@dataclass(frozen=True, slots=True)
class Checkpoints:
    """Where the rings of a sequence are kept, so that others can go on from there.

    `period`: tokens between them; besides, at the ends of prompts and answers and where two
    requests were seen to part. None: nowhere, rings are always computed again (report 3.6).
    """

    period: int | None = 1024

    @classmethod
    def parse(cls, text: str) -> Checkpoints:
        """A number of tokens, or `zero`. Raises UsageError."""
        if text != "zero" and not text.isdecimal():
            raise UsageError(f"checkpoints {text!r}", f"a multiple of {BLOCK}, or zero")
        return cls(None if text == "zero" else int(text))

    def __post_init__(self) -> None:
        if self.period is not None and (self.period < BLOCK or self.period % BLOCK):
            raise UsageError(
                f"checkpoints every {self.period} tokens", f"a multiple of {BLOCK}, or zero"
            )


class Memory:
    """The states of all sequences of one model, within `capacity` bytes."""

    def __init__(
        self,
        model: Transformer,
        capacity: int,
        *,
        binding: bytes = b"",
        checkpoints: Checkpoints | None = None,
        store: Store | None = None,
    ) -> None:
        config = model.config
        self.capacity = capacity
        self._model, self._binding = model, binding
        self._checkpoints = Checkpoints() if checkpoints is None else checkpoints
        self.block_bytes = model.new_state().table.layout.nbytes
        self._ring_bytes = model.new_state().ring_bytes
        if model.mtp:
            self._ring_bytes += model.new_mtp_state().ring_bytes
        self._holders: list[Sequence] = []  # in the order of their admission
        room = max(0, capacity - 2 * self._ring_bytes) // max(1, self.block_bytes) * BLOCK
        self.context = min(config.max_position_embeddings, room)
        """Tokens a sequence can have: those of the model, if the budget holds them."""
        if self.context < min(config.max_position_embeddings, 8 * BLOCK):
            raise UsageError(
                f"{capacity} bytes hold a context of {self.context} tokens",
                "give the cache more memory",
            )
        # Rings that began empty are right again once a window has passed in every layer, and what
        # Engrams look back at.
        blind = config.sliding_window * len(config.layer_ratios)
        if config.engram is not None:
            convolved = len(config.engram.layer_ids) * config.engram.convolved
            blind += config.engram.lookback + convolved
        self.cache = PrefixCache(store, blind if model.numerics.packed else None)

    @property
    def disk(self) -> Stats | None:
        """What is kept on disk and what happened there, None without a folder."""
        store = self.cache.store
        return None if store is None else store.stats

    def close(self) -> None:
        """Write what is still to be stored."""
        if self.cache.store is not None:
            self.cache.store.close()

    def chain(self, user: str) -> Chain:
        """The keys of a new sequence of a user."""
        return Chain(self._binding, user)

    @property
    def holders(self) -> frozenset[Sequence]:
        """The sequences that have a state."""
        return frozenset(self._holders)

    @property
    def used(self) -> int:
        """Bytes that are held: what is shared or kept, and what single sequences have."""
        own = sum(sequence.own_blocks for sequence in self._holders)
        return self.cache.bytes + own * self.block_bytes + len(self._holders) * self._ring_bytes

    def make_room(self, wanted: int) -> bool:
        """Whether `wanted` more bytes fit. What nobody uses is given up for them, but nothing if
        that were not enough."""
        missing = self.used + wanted - self.capacity
        if missing > self.cache.evictable:
            return False
        if missing > 0:
            self.cache.evict(missing)
        return True

    def growth(self, sequence: Sequence, count: int) -> int:
        """Bytes that `count` more ids of a sequence need."""
        assert sequence.state is not None
        blocks = -(-(sequence.length + count) // BLOCK) - len(sequence.state.table)
        return max(0, blocks) * self.block_bytes

    def admit(self, sequence: Sequence) -> bool:
        """Give a sequence its state: the longest prefix that is known. False if there is no room
        for the rest of its ids and some more; a sequence that would be alone always gets it."""
        # The last id is always computed: its logits are wanted.
        keys = sequence.chain.extend(sequence.ids, (len(sequence.ids) - 1) // BLOCK)
        hit = self.cache.find(keys)
        blocks_in_all = -(-len(sequence.ids) // BLOCK) + HEADROOM
        need = self._ring_bytes + max(0, blocks_in_all - len(hit.nodes)) * self.block_bytes
        if not self.make_room(need) and self._holders:
            self.cache.release(hit.nodes)
            return False
        state = self._model.new_state()
        blocks = [node.block for node in hit.nodes]
        try:
            if hit.tail is not None:
                state.resume(blocks, hit.tail)
            elif blocks:
                state.resume_blind(blocks, hit.length)
        except BaseException:
            self.cache.release(hit.nodes)
            raise
        sequence.state = state
        self._holders.append(sequence)
        sequence.nodes = hit.nodes
        sequence.exact_from = len(blocks) * BLOCK
        sequence.shared = self.cache.reach(keys) * BLOCK
        if sequence.cached is None:
            sequence.cached = hit.length
        return True

    def piece(self, sequence: Sequence, count: int, start: int) -> int:
        """At most `count` ids from position `start` on, but no further than a place that is to be
        kept."""
        stops = [sequence.shared]
        if self._checkpoints.period is not None:
            period = self._checkpoints.period
            stops.append((start // period + 1) * period)
        return min([count, *(stop - start for stop in stops if stop > start)])

    def commit(self, sequence: Sequence) -> None:
        """Share the blocks that a sequence has finished, and keep its rings where they matter."""
        self._publish(sequence)
        period, length = self._checkpoints.period, sequence.length
        if period is None:
            return
        prompt = len(sequence.generation.ids)
        if prompt <= length < prompt + BLOCK:
            # Asked again, the same prompt goes on before its last id.
            self._keep(sequence, (prompt - 1) // BLOCK)
        end = length // BLOCK * BLOCK
        if end == sequence.shared or end % period == 0:
            self._keep(sequence, end // BLOCK)

    def release(self, sequence: Sequence) -> None:
        """Take a sequence's state away; what it computed can be found again."""
        if sequence.state is None:
            return
        self._publish(sequence)
        if self._checkpoints.period is not None:
            self._keep(sequence, sequence.length // BLOCK)
        self.drop(sequence)

    def drop(self, sequence: Sequence) -> None:
        """Take away a state that may be wrong."""
        if sequence.state is not None:
            self._holders.remove(sequence)
        self.cache.release(sequence.nodes)
        sequence.nodes = []
        sequence.state = sequence.draft_state = sequence.draft = None

    def _publish(self, sequence: Sequence) -> None:
        state, nodes = sequence.state, sequence.nodes
        assert state is not None
        count = state.length // BLOCK
        if not self.block_bytes or count <= len(nodes):
            return
        keys = sequence.chain.extend(sequence.ids, count)
        for i in range(len(nodes), count):
            parent = nodes[-1] if nodes else None
            node = self.cache.publish(parent, keys[i], state.table.blocks[i])
            state.table.share(i, node.block)
            nodes.append(node)

    def _keep(self, sequence: Sequence, count: int) -> None:
        """Keep the rings at the end of the first `count` blocks, if the state reaches back."""
        state, nodes = sequence.state, sequence.nodes
        assert state is not None
        if not 0 < count <= len(nodes) or self.cache.has_tail(nodes[count - 1]):
            return
        if max(sequence.exact_from, state.earliest) <= count * BLOCK <= state.length:
            tail = state.tail(count * BLOCK)
            if self.make_room(tail.nbytes):
                self.cache.put_tail(nodes[count - 1], tail)
