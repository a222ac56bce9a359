"""Through a model layer by layer, comparing how its variants compute it.

Only one layer's weights are mapped at a time, so a model larger than memory can be walked through.

Shapes: T tokens, S streams, D hidden channels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from dsv4.config import CSA, HCA, SWA
from dsv4.errors import CheckpointError
from dsv4.evaluation.conformance.comparison import Comparison, allowed, compare, measure, relative
from dsv4.evaluation.conformance.lengths import onset
from dsv4.evaluation.conformance.parts import ORDER, Inputs, compute, gather, steps
from dsv4.evaluation.conformance.pieces import Pieces
from dsv4.evaluation.conformance.variant import IN_PIECES, TRUTH, Variant
from dsv4.evaluation.conformance.ways import Tickets, Ways, release
from dsv4.model.block import Block
from dsv4.model.engram import Ticket
from dsv4.numerics.policy import EXACT

KINDS = {SWA: "SWA", CSA: "CSA", HCA: "HCA"}
LOGITS = 16
"""Last positions whose logits are compared: a vocabulary is large."""

Computed = dict[str, dict[str, Tensor]]
"""Variant -> part -> numbers."""


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer while it is mapped: what was fed to it and what each variant made of it."""

    name: str
    kind: str
    block: Block
    inputs: Inputs
    ticket: Ticket | None
    computed: Computed


Visitor = Callable[[Layer, Sequence[Comparison]], None]


@dataclass(slots=True)
class Walk:
    """A model, a prompt, and the variants to compare.

    `lengths`: prompt lengths whose last token is also computed singly. `visit` is called with
    every layer while its weights are there. `layers`: how many, from the first; logits and MTP
    block follow only the last of the model.
    """

    pieces: Pieces
    ids: Sequence[int]
    variants: Sequence[Variant]
    lengths: Sequence[int]
    layers: int
    visit: Visitor = lambda layer, rows: None
    done: Callable[[int, int], None] = lambda done, total: None
    rows: list[Comparison] = field(default_factory=list)
    """What was compared so far; `run` adds to it."""

    @torch.no_grad()
    def run(self) -> list[Comparison]:
        """All comparisons, layer by layer, each in the order of its parts.

        Raises CheckpointError if `exact` computes numbers that are not finite.
        """
        config = self.pieces.config
        ways = Ways(self.pieces, self.ids, self._others())
        truth_1TSD = ways.start_1TSD
        for number in range(self.layers):
            block = self.pieces.layer(number)
            name, kind = f"layers.{number}", KINDS[block.attn.ratio]
            truth_1TSD = self._layer(
                name, block, ways.ids_1T, truth_1TSD, ways.tickets(block), None
            )
            ways.through(block)
            self._carried(name, kind, "streams", ways.streams, truth_1TSD[0])
            release(block)
            del block
            self.done(number + 1, self.layers)
        if self.layers == config.num_hidden_layers:
            self._ends(ways, truth_1TSD)
        return self.rows

    def _ends(self, ways: Ways, truth_1TSD: Tensor) -> None:
        """The head, then the MTP block."""
        T = ways.ids_1T.shape[1]
        head, last = self.pieces.head(), range(max(0, T - LOGITS), T)
        truth_PV = head(truth_1TSD[:, list(last)], EXACT)[0]
        self._carried("head", "", "logits", dict(ways.logits(head, last)), truth_PV)
        del head
        block = self.pieces.prediction()
        if block is not None and T > 1:
            self._layer(
                "mtp.0",
                block,
                ways.ids_1T[:, 1:],
                truth_1TSD[:, :-1].contiguous(),
                lambda _: None,
                ways.embedded_1TD[:, 1:],
            )

    def _others(self) -> list[Variant]:
        """The variants that are more than the truth in pieces."""
        return [variant for variant in self.variants if variant.name != IN_PIECES]

    def _layer(
        self,
        name: str,
        block: Block,
        ids_1T: Tensor,
        streams_1TSD: Tensor,
        tickets: Tickets,
        embedded_1TD: Tensor | None,
    ) -> Tensor:
        """Compare the parts of a layer; the streams after it."""
        T = ids_1T.shape[1]
        single = [length - 1 for length in self.lengths if length <= T] or [T - 1]
        inputs, after_1TSD = gather(
            block, ids_1T, streams_1TSD, tickets(EXACT), single, embedded_1TD
        )
        truth = Variant(TRUTH, EXACT, ())
        computed = {TRUTH: compute(block, inputs, tickets(EXACT), truth, stepwise=False)}
        for part, numbers in computed[TRUTH].items():
            if not bool(numbers.isfinite().all()):
                raise CheckpointError(
                    f"{name}: {part} is not finite", "its weights are damaged, or none at all"
                )
        # Prefill and single steps are one computation: the truth of a step is its row.
        computed[TRUTH]["steps"] = computed[TRUTH]["attention"][list(inputs.steps)]
        for variant in self.variants:
            if variant.name == IN_PIECES:
                computed[variant.name] = {
                    "steps": steps(block, inputs.attention_1TD, inputs.steps, variant)
                }
            else:
                computed[variant.name] = compute(block, inputs, tickets(variant.numerics), variant)
        kind = "MTP" if embedded_1TD is not None else KINDS[block.attn.ratio]
        hashed = block.ffn.gate.tid2eid is not None
        rows = self._compared(name, kind, hashed, computed, inputs.steps)
        self.rows += rows
        self.visit(Layer(name, kind, block, inputs, tickets(EXACT), computed), rows)
        return after_1TSD

    def _compared(
        self, name: str, kind: str, hashed: bool, computed: Computed, steps: Sequence[int]
    ) -> list[Comparison]:
        official: dict[str, float] = {}
        rows = []
        for variant in self.variants:
            for against, how in variant.against:
                truth = computed[against]
                for part in ORDER:
                    if part not in truth or part not in computed[variant.name]:
                        continue
                    bound = allowed(part, how, official.get(part), hashed=hashed)
                    row = compare(
                        name, kind, part, variant.name, against, how, computed[variant.name],
                        truth, bound, onset(self.pieces.config),
                        steps if part == "steps" else None,
                    )  # fmt: skip
                    rows.append(row)
                    if how == "rounded":
                        official[part] = row.relative
        return rows

    def _carried(
        self, layer: str, kind: str, part: str, own: Mapping[str, Tensor], truth: Tensor
    ) -> None:
        """What has added up to here, when every variant goes its own way: reported, not judged."""
        for variant in self._others():
            a, b = own[variant.name].float().view_as(truth), truth
            each = relative(a, b)
            at = int(each.argmax())
            row = Comparison(
                layer, kind, part, variant.name, TRUTH, measure(part, a, b), float(each.max()), at,
                None, None,
            )  # fmt: skip
            self.rows.append(row)
