"""What variants of a model arrive at, each on a way of its own, one layer in memory at a time.

Shapes: T tokens, S streams, D hidden channels, P positions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

from dsv4.evaluation.conformance.parts import through, ticket
from dsv4.evaluation.conformance.pieces import Head, Pieces
from dsv4.evaluation.conformance.variant import Variant
from dsv4.model.block import Block
from dsv4.model.engram import Ticket
from dsv4.numerics.policy import Numerics
from dsv4.ops.fused import forget

Tickets = Callable[[Numerics], Ticket | None]
"""What the Engram of a layer reads under a numerics policy."""


class Ways:
    """The streams of variants on their way through a model, which the caller takes through it.

    `embedded_1TD`: embeddings of the ids. `streams`: variant -> where it is, `[1, T, S, D]`.
    """

    def __init__(self, pieces: Pieces, ids: Sequence[int], variants: Sequence[Variant]) -> None:
        self.ids_1T = torch.tensor([list(ids)])
        self.embedded_1TD = pieces.embed(self.ids_1T)
        streams = pieces.config.hc_mult
        self.start_1TSD = self.embedded_1TD.unsqueeze(2).expand(-1, -1, streams, -1).contiguous()
        self.streams = {variant.name: self.start_1TSD for variant in variants}
        self._variants = variants
        ngrams = pieces.ngrams()
        self._found = ngrams(self.ids_1T, None, 0) if ngrams is not None else ()

    def tickets(self, block: Block) -> Tickets:
        """What the Engram of a layer reads."""
        return partial(ticket, block, self._found)

    def through(self, block: Block) -> None:
        """Take every variant through a layer."""
        tickets = self.tickets(block)
        for variant in self._variants:
            before_1TSD = self.streams[variant.name]
            self.streams[variant.name] = through(
                block, self.ids_1T, before_1TSD, tickets(variant.numerics), variant
            )

    def logits(self, head: Head, positions: Sequence[int]) -> Iterator[tuple[str, Tensor]]:
        """Variants, each with the logits `[P, V]` float32 of what stands at these positions."""
        for variant in self._variants:
            with torch.no_grad(), variant.within():
                last_1PSD = self.streams[variant.name][:, list(positions)]
                numerics = variant.numerics
                logits_PV: Tensor = head(last_1PSD.to(numerics.dtype), numerics)[0]
            yield variant.name, logits_PV


def release(block: Block) -> None:
    """Let a layer go with the last reference to it: its fused forms refer to it too."""
    for module in block.modules():
        forget(module)


def logits(
    pieces: Pieces,
    ids: Sequence[int],
    variants: Sequence[Variant],
    positions: Sequence[int],
    done: Callable[[int, int], None] = lambda done, total: None,
) -> Iterator[tuple[str, Tensor]]:
    """Variants, each with its logits `[P, V]` float32 after the tokens at `positions` of `ids`."""
    ids = ids[: positions[-1] + 1]
    ways, layers = Ways(pieces, ids, variants), pieces.config.num_hidden_layers
    for number in range(layers):
        block = pieces.layer(number)
        ways.through(block)
        release(block)
        del block
        done(number + 1, layers)
    yield from ways.logits(pieces.head(), positions)
