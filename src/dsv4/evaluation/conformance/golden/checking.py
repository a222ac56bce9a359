"""An engine (ours) against a golden pack: the same inputs, the stored outputs."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from dsv4 import checkpoint
from dsv4.checkpoint.plan import make_plan
from dsv4.config import ModelConfig
from dsv4.encoding.tokenizer import Tokenizer
from dsv4.errors import CheckpointError
from dsv4.evaluation.conformance.comparison import Comparison
from dsv4.evaluation.conformance.finding import Check, Finding, Report
from dsv4.evaluation.conformance.golden.pack import Pack, read
from dsv4.evaluation.conformance.golden.section import (
    Given,
    judge,
    logits,
    outputs,
)
from dsv4.evaluation.conformance.pieces import Pieces
from dsv4.evaluation.conformance.variant import IN_PIECES, TRUTH, Variant, usual
from dsv4.evaluation.conformance.verify import divergence
from dsv4.evaluation.conformance.walk import KINDS
from dsv4.model.block import Block
from dsv4.numerics.policy import EXACT

ANOTHER = "check with the checkpoint that the pack was made of"
STORED = "pack"
"""What variants are compared with."""


def engine() -> list[Variant]:
    """What this machine runs, and the reference, all compared with a pack."""
    found = [Variant(TRUTH, EXACT, ((STORED, "float32"),))]
    for variant in usual():
        against = tuple((STORED if name == TRUTH else name, how) for name, how in variant.against)
        found.append(replace(variant, against=against))
    return found


def check_pack(
    folder: Path,
    stored: Path,
    variants: Sequence[Variant] | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Report:
    """Whether what is computed of a folder's weights is what a pack holds.

    `variants`: what to compare instead of `engine()`. Raises CheckpointError for a pack that is
    damaged or of another architecture, and what reading the folder raises.
    """
    begin = time.perf_counter()
    pack, plan = read(stored), make_plan(folder)
    report = Report(str(folder))
    pieces = Pieces(plan, lambda size: Tokenizer.from_folder(folder).canonical_ids(size))
    _same_architecture(plan.config, pack)
    chosen = engine() if variants is None else variants
    model = pack.about["model"]
    report.facts |= {
        "pack": f"{stored}: {len(pack.entries)} tensors of {', '.join(pack.layers)}",
        "made of": f"{model['name']}, by dsv4 {pack.about['dsv4']}",
        "identity": model["identity"],
    }
    if checkpoint.identity(folder).hex() != model["identity"]:
        # The same weights in another layout have another identity and the same numbers.
        what = "the pack was made of other files; if these are other weights, numbers differ"
        report.findings.append(Finding(what, str(stored), "note"))
    for number, layer in enumerate(pack.layers):
        report.comparisons += _layer(pieces, pack, layer, chosen)
        progress(number + 1, len(pack.layers))
    for variant in chosen:
        failed = [row for row in report.comparisons if row.variant == variant.name and not row.ok]
        if failed:
            report.findings.append(divergence(failed, ()))
    names = ", ".join(variant.name for variant in chosen)
    report.checks.append(Check("pack", names, time.perf_counter() - begin))
    return report


def _layer(pieces: Pieces, pack: Pack, layer: str, variants: Sequence[Variant]) -> list[Comparison]:
    inputs = {part: tensor for part, (_, tensor) in pack.of(layer, "input").items()}
    truth = {part: tensor for part, (_, tensor) in pack.of(layer, "output").items()}
    entries = [entry for entry in pack.entries if entry.layer == layer]
    kind = entries[0].kind
    if layer == "head":
        positions = entries[0].positions or []
        head = pieces.head()
        _fitting(layer, {"logits": pieces.config.vocab_size}, truth)
        whole = [variant for variant in variants if variant.name != IN_PIECES]
        computed = {v.name: logits(head, inputs["streams"][None], v) for v in whole}
        return judge(pieces, layer, kind, False, {STORED: truth} | computed, whole, positions)
    if layer.startswith("mtp."):
        block: Block | None = pieces.prediction()
    else:
        block = pieces.layer(int(layer.removeprefix("layers.")))
    assert block is not None, "the architecture was compared"
    hidden = pieces.config.hidden_size
    _fitting(layer, dict.fromkeys(inputs, hidden), inputs)
    fed = _given(pack, layer, inputs)
    computed = {variant.name: outputs(pieces, block, fed, variant) for variant in variants}
    truth = {part: x.flatten(1) if x.dim() == 3 else x for part, x in truth.items()}
    truth["steps"] = truth["attention"]
    for parts in computed.values():
        _fitting(layer, {part: x.shape[-1] for part, x in parts.items()}, truth)
    hashed = block.ffn.gate.tid2eid is not None
    rows = {STORED: truth} | computed
    return judge(pieces, layer, kind, hashed, rows, variants, fed.positions)


def _same_architecture(config: ModelConfig, pack: Pack) -> None:
    """Raises CheckpointError if the pack's layers are not this model's."""
    own = {f"layers.{i}": KINDS[ratio] for i, ratio in enumerate(config.layer_ratios)}
    own["head"] = ""
    if config.num_nextn_predict_layers and not config.draft_stages:
        own["mtp.0"] = "MTP"
    for entry in pack.entries:
        if entry.layer not in own:
            raise CheckpointError(f"this model has no {entry.layer}", ANOTHER)
        if entry.kind != own[entry.layer]:
            raise CheckpointError(
                f"{entry.layer} is {entry.kind} in the pack, {own[entry.layer]} in this model",
                ANOTHER,
            )
    for entry in (entry for entry in pack.entries if entry.role == "tokens"):
        numbers = pack.tensors[entry.name]
        if int(numbers.max()) >= config.vocab_size:
            raise CheckpointError(f"the pack has tokens that this model does not: {entry.name}")


def _fitting(layer: str, widths: dict[str, int], stored: dict[str, Tensor]) -> None:
    """Raises CheckpointError if the numbers of a position are not as many as the model has."""
    for part, width in widths.items():
        if part in stored and stored[part].shape[-1] != width:
            raise CheckpointError(
                f"{layer}: {part} has {stored[part].shape[-1]} numbers in the pack, {width} here",
                ANOTHER,
            )


def _given(pack: Pack, layer: str, inputs: dict[str, Tensor]) -> Given:
    entry, _ = pack.of(layer, "output")["attention"]
    embedded = inputs.get("embedded")
    return Given(
        pack.tensors[f"{layer}.tokens"],
        tuple(entry.positions or ()),
        inputs["attention"][None],
        inputs["experts"][None],
        inputs["experts, large"][None],
        inputs["streams"][None],
        None if embedded is None else embedded[None],
    )
