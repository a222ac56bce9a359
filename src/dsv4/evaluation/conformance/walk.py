"""Through a model layer by layer, comparing how its variants compute it.

Only one layer's weights are mapped at a time, so a model larger than memory can be walked through.

Shapes: T tokens, S streams, D hidden channels.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from dsv4.config import CSA, HCA, SWA
from dsv4.errors import CheckpointError
from dsv4.evaluation.conformance.comparison import CHOICES, Comparison, allowed, measure, relative
from dsv4.evaluation.conformance.lengths import onset
from dsv4.evaluation.conformance.parts import ORDER, Inputs, compute, gather, steps, through
from dsv4.evaluation.conformance.pieces import Pieces
from dsv4.evaluation.conformance.variant import IN_PIECES, TRUTH, Variant
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
        ids_1T = torch.tensor([list(self.ids)])
        embedded_1TD = self.pieces.embed(ids_1T)
        truth_1TSD = embedded_1TD.unsqueeze(2).expand(-1, -1, config.hc_mult, -1).contiguous()
        own = {variant.name: truth_1TSD for variant in self._others()}
        found = self._rows_of_tables(ids_1T)
        for number in range(self.layers):
            block = self.pieces.layer(number)
            tickets = self._tickets(block, found)
            truth_1TSD = self._layer(f"layers.{number}", block, ids_1T, truth_1TSD, tickets, None)
            for variant in self._others():
                streams = through(block, ids_1T, own[variant.name], tickets(variant), variant)
                own[variant.name] = streams
            self._carried(f"layers.{number}", KINDS[block.attn.ratio], "streams", own, truth_1TSD)
            del block, tickets
            gc.collect()  # a module and its fused forms refer to each other
            self.done(number + 1, self.layers)
        if self.layers == config.num_hidden_layers:
            self._ends(ids_1T, embedded_1TD, truth_1TSD, own)
        return self.rows

    def _ends(
        self, ids_1T: Tensor, embedded_1TD: Tensor, truth_1TSD: Tensor, own: Mapping[str, Tensor]
    ) -> None:
        """The head, then the MTP block."""
        head = self.pieces.head()
        logits = {}
        for variant in self._others():
            with variant.within():
                last = own[variant.name][:, -LOGITS:].to(variant.numerics.dtype).contiguous()
                logits[variant.name] = head(last, variant.numerics)
        self._carried("head", "", "logits", logits, head(truth_1TSD[:, -LOGITS:], EXACT))
        del head
        block = self.pieces.prediction()
        if block is not None and ids_1T.shape[1] > 1:
            self._layer(
                "mtp.0",
                block,
                ids_1T[:, 1:],
                truth_1TSD[:, :-1].contiguous(),
                lambda _: None,
                embedded_1TD[:, 1:],
            )

    def _others(self) -> list[Variant]:
        """The variants that are more than the truth in pieces."""
        return [variant for variant in self.variants if variant.name != IN_PIECES]

    def _rows_of_tables(self, ids_1T: Tensor) -> tuple[Tensor, ...]:
        ngrams = self.pieces.ngrams()
        return ngrams(ids_1T, None, 0) if ngrams is not None else ()

    def _tickets(
        self, block: Block, found: Sequence[Tensor]
    ) -> Callable[[Variant | None], Ticket | None]:
        """What the Engram of a layer reads under a variant; None stands for the truth."""

        def submit(variant: Variant | None) -> Ticket | None:
            if block.engram is None:
                return None
            numerics = variant.numerics if variant is not None else EXACT
            return block.engram.submit(found[block.engram.number], numerics)

        return submit

    def _layer(
        self,
        name: str,
        block: Block,
        ids_1T: Tensor,
        streams_1TSD: Tensor,
        tickets: Callable[[Variant | None], Ticket | None],
        embedded_1TD: Tensor | None,
    ) -> Tensor:
        """Compare the parts of a layer; the streams after it."""
        T = ids_1T.shape[1]
        single = [length - 1 for length in self.lengths if length <= T] or [T - 1]
        inputs, after_1TSD = gather(
            block, ids_1T, streams_1TSD, tickets(None), single, embedded_1TD
        )
        truth = Variant(TRUTH, EXACT, ())
        computed = {TRUTH: compute(block, inputs, tickets(None), truth, stepwise=False)}
        for part, numbers in computed[TRUTH].items():
            if not bool(numbers.isfinite().all()):
                raise CheckpointError(
                    f"{name}: {part} is not finite", "its weights are damaged, or none at all"
                )
        # Prefill and single steps are one computation: the truth of a step is its row.
        computed[TRUTH]["steps"] = computed[TRUTH]["attention"][list(inputs.steps)]
        for variant in self.variants:
            if variant.name == IN_PIECES:
                computed[variant.name] = {"steps": steps(block, inputs, variant)}
            else:
                computed[variant.name] = compute(block, inputs, tickets(variant), variant)
        kind = "MTP" if embedded_1TD is not None else KINDS[block.attn.ratio]
        hashed = block.ffn.gate.tid2eid is not None
        rows = self._compared(name, kind, hashed, computed, inputs.steps)
        self.rows += rows
        self.visit(Layer(name, kind, block, inputs, tickets(None), computed), rows)
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
                    row = self._compare(
                        name, kind, part, variant.name, against, how, computed[variant.name],
                        truth, steps, bound,
                    )  # fmt: skip
                    rows.append(row)
                    if how == "rounded":
                        official[part] = row.relative
        return rows

    def _compare(
        self,
        layer: str,
        kind: str,
        part: str,
        variant: str,
        against: str,
        how: str,
        ours: Mapping[str, Tensor],
        truth: Mapping[str, Tensor],
        steps: Sequence[int],
        bound: float,
    ) -> Comparison:
        a, b = ours[part], truth[part]
        judged = torch.ones(len(b), dtype=torch.bool)
        if (
            how not in ("float32", "kernels")
            and part in ("attention", "steps", "layer")
            and kind == "CSA"
        ):
            # Where the indexer drops entries, of nearly equal ones either may go.
            places = torch.tensor(steps) if part == "steps" else torch.arange(len(b))
            judged = places < onset(self.pieces.config) - 1
        if part.startswith("experts") or part == "layer":
            choice = "choice, large" if part == "experts, large" else "choice"
            judged &= (ours[choice] == truth[choice]).all(1)
        each = relative(a, b) if part not in CHOICES else (a != b).any(1).double()
        beyond = each > bound
        first = int(beyond.int().argmax()) if bool(beyond.any()) else None
        value = measure(part, a[judged], b[judged]) if bool(judged.any()) else 0.0
        at = int(each.argmax())
        place = steps[at] if part == "steps" else at
        if first is not None and part == "steps":
            first = steps[first]
        return Comparison(
            layer, kind, part, variant, against, value, float(each.max()), place, first, bound
        )

    def _carried(
        self, layer: str, kind: str, part: str, own: Mapping[str, Tensor], truth: Tensor
    ) -> None:
        """What has added up to here, when every variant goes its own way: reported, not judged."""
        for variant in self._others():
            a, b = own[variant.name][0].float(), truth[0]
            each = relative(a, b)
            at = int(each.argmax())
            row = Comparison(
                layer, kind, part, variant.name, TRUTH, measure(part, a, b), float(each.max()), at,
                None, None,
            )  # fmt: skip
            self.rows.append(row)
