"""Making a golden pack: one walk through a model, keeping one layer of every kind.

Shapes: T tokens, K positions, S streams, D hidden channels.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from dsv4 import checkpoint
from dsv4.checkpoint.plan import Plan, make_plan
from dsv4.config import HCA
from dsv4.encoding.tokenizer import Tokenizer
from dsv4.evaluation.conformance import lengths
from dsv4.evaluation.conformance.comparison import CHOICES_DIFFER, FLOAT32, Comparison
from dsv4.evaluation.conformance.golden.pack import Entry, Pack, Tolerance, digest, entry
from dsv4.evaluation.conformance.golden.section import (
    PARTS,
    Given,
    given,
    judge,
    logits,
    outputs,
    rounded,
)
from dsv4.evaluation.conformance.pieces import Pieces
from dsv4.evaluation.conformance.variant import IN_PIECES, TRUTH, Variant, usual
from dsv4.evaluation.conformance.walk import Layer, Walk
from dsv4.numerics.policy import EXACT
from dsv4.ops.fused import arithmetic
from dsv4.version import __version__

LOGITS = 2
"""Last positions whose logits a pack holds."""
LENGTH = HCA + 3
"""Tokens of the prompt unless another length is asked for: past the first HCA entry, 3 mod 4."""

EXACTLY = Variant(TRUTH, EXACT, ())


def make_pack(
    folder: Path,
    layers: int | None = None,
    length: int | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Pack:
    """Inputs and outputs of a folder's parts: of each kind of layer the first.

    `layers`: only the first so many; head and MTP block need all. Raises what reading raises.
    """
    plan = make_plan(folder)
    count = min(layers or plan.config.num_hidden_layers, plan.config.num_hidden_layers)
    length = min(length or LENGTH, plan.config.max_position_embeddings)
    pieces = Pieces(plan, lambda size: Tokenizer.from_folder(folder).canonical_ids(size))
    maker = _Maker(pieces, usual())
    walk = Walk(
        pieces,
        lengths.prompt(plan.config, length),
        (),
        lengths.boundaries(plan.config, length),
        count,
        maker.visit,
        progress,
    )
    walk.run()
    if count == plan.config.num_hidden_layers:
        maker.head(length)
    return Pack(_about(plan), tuple(maker.entries), maker.tensors)


@dataclass(slots=True)
class _Maker:
    pieces: Pieces
    variants: Sequence[Variant]
    entries: list[Entry] = field(default_factory=list)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    _kinds: set[tuple[str, bool, bool]] = field(default_factory=set)
    _last_TX: Tensor | None = None
    """Streams after the last layer that was visited."""

    def visit(self, layer: Layer, _: Sequence[Comparison]) -> None:
        """Keep a layer if it is the first of its kind."""
        hashed = layer.block.ffn.gate.tid2eid is not None
        if layer.inputs.embedded_1TD is None:
            self._last_TX = layer.computed[TRUTH]["layer"]
        kind = layer.kind, hashed, layer.block.engram is not None
        if kind in self._kinds:
            return
        self._kinds.add(kind)
        fed = given(layer.inputs)
        computed = {
            variant.name: outputs(self.pieces, layer.block, fed, variant)
            for variant in (EXACTLY, *self.variants)
        }
        positions = fed.positions
        rows = judge(
            self.pieces, layer.name, layer.kind, hashed, computed, self.variants, positions
        )
        self._inputs(layer.name, layer.kind, fed)
        del computed[TRUTH]["steps"]  # attention once more
        self._outputs(layer.name, layer.kind, computed[TRUTH], fed, rows)

    def head(self, length: int) -> None:
        """Keep what follows the last layer."""
        assert self._last_TX is not None
        streams = self.pieces.config.hc_mult
        last = self._last_TX[-LOGITS:].unflatten(1, (streams, -1))
        at, fed = list(range(length - len(last), length)), rounded(last)
        head = self.pieces.head()
        variants = [variant for variant in self.variants if variant.name != IN_PIECES]
        computed = {
            variant.name: logits(head, fed[None], variant) for variant in (EXACTLY, *variants)
        }
        rows = judge(self.pieces, "head", "", False, computed, variants, at)
        self._add(entry("head", "", "streams", "input", fed, at), fed)
        numbers = computed[TRUTH]["logits"]
        tolerance = _tolerance(rows, "logits")
        self._add(entry("head", "", "logits", "output", numbers, at, tolerance), numbers)

    def _inputs(self, layer: str, kind: str, fed: Given) -> None:
        T, P = len(fed.tokens_T), fed.streams_1PSD.shape[1]
        self._add(entry(layer, kind, "tokens", "tokens", fed.tokens_T, range(T)), fed.tokens_T)
        of = {
            "attention": (fed.attention_1TD, range(T)),
            "experts": (fed.experts_1KD, fed.positions),
            "experts, large": (fed.large_1KD, fed.positions),
            "streams": (fed.streams_1PSD, range(P)),
        }
        if fed.embedded_1PD is not None:
            of["embedded"] = (fed.embedded_1PD, range(P))
        for part, (tensor, positions) in of.items():
            self._add(entry(layer, kind, part, "input", tensor[0], positions), tensor[0])

    def _outputs(
        self,
        layer: str,
        kind: str,
        truth: dict[str, Tensor],
        fed: Given,
        rows: Sequence[Comparison],
    ) -> None:
        T = len(fed.tokens_T)
        for part in (*PARTS, "choice, large"):
            if part not in truth:
                continue
            numbers = truth[part]
            if part in ("entries", "index keys"):
                positions: Sequence[int] | None = None
            elif part == "window":
                positions = range(T - len(numbers), T)
            elif part in ("layer", "prediction"):
                positions = range(len(numbers))
                numbers = numbers.unflatten(1, (self.pieces.config.hc_mult, -1))
            else:
                positions = fed.positions
            tolerance = _tolerance(rows, part)
            self._add(entry(layer, kind, part, "output", numbers, positions, tolerance), numbers)

    def _add(self, one: Entry, tensor: Tensor) -> None:
        assert one.name not in self.tensors
        self.entries.append(one)
        self.tensors[one.name] = tensor.contiguous()


def _tolerance(rows: Sequence[Comparison], part: str) -> Tolerance:
    """How variants differ from a part and may differ. A step's truth is its row of the whole
    sequence, so attention has those of single tokens too."""
    found: Tolerance = {}
    for row in rows:
        if row.against != TRUTH or row.allowed is None:
            continue
        values = {"measured": row.relative, "allowed": row.allowed}
        if row.part == part:
            found[row.variant] = values
        elif part == "attention" and row.part == "steps":
            found[f"{row.variant}, single tokens"] = values
    return found


def _about(plan: Plan) -> dict[str, Any]:
    files = ("config.json", "tokenizer.json")
    present = [plan.folder / name for name in files if (plan.folder / name).is_file()]
    return {
        "dsv4": __version__,
        "numerics": TRUTH,
        "kernels": arithmetic(),
        "float32": {"numbers": FLOAT32, "choices": CHOICES_DIFFER},
        "model": {
            "name": plan.folder.resolve().name,
            "layout": plan.layout,
            "identity": checkpoint.identity(plan.folder).hex(),
            "sha256": {path.name: digest(path) for path in present},
            "config": json.loads((plan.folder / "config.json").read_text(encoding="utf-8")),
        },
    }
