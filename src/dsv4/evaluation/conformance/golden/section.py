"""What a pack holds of one layer: inputs of its parts, and what `exact` makes of them.

Inputs are bfloat16 values, so that engines which compute in bfloat16 are fed the same numbers.

Shapes: T tokens, K positions (the first P of them are the first P tokens), S streams, D hidden
channels, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dsv4.evaluation.conformance.comparison import Comparison, allowed, compare
from dsv4.evaluation.conformance.lengths import onset
from dsv4.evaluation.conformance.parts import (
    ORDER,
    Inputs,
    attention,
    experts,
    steps,
    ticket,
    whole,
    widened,
)
from dsv4.evaluation.conformance.pieces import Head, Pieces
from dsv4.evaluation.conformance.variant import IN_PIECES, Variant
from dsv4.model.block import Block

FIRST = 8
"""Tokens whose streams a pack holds: streams are large, and a whole layer does nothing else with
them at later positions."""

AT_POSITIONS = ("attention", "steps", "selection")
"""Parts of attention that a pack holds at chosen positions alone; the others are of all rows."""

PARTS = (*ORDER, "logits")
Parts = Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class Given:
    """Inputs of a layer's parts. `embedded_1PD`: of the MTP block alone."""

    tokens_T: Tensor
    positions: tuple[int, ...]
    attention_1TD: Tensor
    experts_1KD: Tensor
    large_1KD: Tensor
    streams_1PSD: Tensor
    embedded_1PD: Tensor | None = None


def given(inputs: Inputs) -> Given:
    """What of a layer's inputs goes into a pack."""
    T = inputs.ids_1T.shape[1]
    first = min(FIRST, T)
    positions = tuple(sorted({*range(first), *inputs.steps}))
    at = list(positions)
    embedded = inputs.embedded_1TD
    return Given(
        inputs.ids_1T[0].to(torch.int32),
        positions,
        rounded(inputs.attention_1TD),
        rounded(inputs.experts_1TD[:, at]),
        rounded(inputs.large_1TD[:, at]),
        rounded(inputs.streams_1TSD[:, :first]),
        None if embedded is None else rounded(embedded[:, :first]),
    )


def rounded(x: Tensor) -> Tensor:
    """The nearest bfloat16 values."""
    return x.to(torch.bfloat16)


def outputs(pieces: Pieces, block: Block, fed: Given, variant: Variant) -> dict[str, Tensor]:
    """Part -> its numbers under a variant, float32 (choices as bool)."""
    if variant.name == IN_PIECES:
        return {"steps": steps(block, fed.attention_1TD, fed.positions, variant)}
    numerics, at = variant.numerics, list(fed.positions)
    P = fed.streams_1PSD.shape[1]
    ids_1T = fed.tokens_T[None].long()
    ids_1K, ids_1P = ids_1T[:, at], ids_1T[:, :P]
    ngrams = pieces.ngrams() if block.engram is not None else None
    found = ngrams(ids_1P, None, 0) if ngrams is not None else ()
    with torch.no_grad(), variant.within():
        parts = attention(block, fed.attention_1TD, numerics)
        for part in AT_POSITIONS:
            if part in parts:
                parts[part] = parts[part][at]
        parts |= experts(block, fed.experts_1KD, ids_1K, numerics, "")
        parts |= experts(block, fed.large_1KD, ids_1K, numerics, ", large")
        after_1PSD = whole(
            block,
            ids_1P,
            fed.streams_1PSD,
            ticket(block, found, numerics),
            numerics,
            fed.embedded_1PD,
        )
        parts["layer" if fed.embedded_1PD is None else "prediction"] = after_1PSD[0].flatten(1)
    return widened(parts) | {"steps": steps(block, fed.attention_1TD, fed.positions, variant)}


def logits(head: Head, streams_1KSD: Tensor, variant: Variant) -> dict[str, Tensor]:
    """The head's only part, `[K, V]`."""
    with torch.no_grad(), variant.within():
        return {"logits": head(streams_1KSD.to(variant.numerics.dtype), variant.numerics)[0]}


def judge(
    pieces: Pieces,
    layer: str,
    kind: str,
    hashed: bool,
    computed: Mapping[str, Parts],
    variants: Sequence[Variant],
    positions: Sequence[int],
) -> list[Comparison]:
    """What variants computed (`computed`: name -> parts), compared with what they name.

    `hashed`: this layer's experts follow from token ids alone.
    """
    official: dict[str, float] = {}
    rows = []
    for variant in variants:
        for against, how in variant.against:
            ours, truth = computed[variant.name], computed[against]
            for part in (part for part in PARTS if part in ours and part in truth):
                row = compare(
                    layer, kind, part, variant.name, against, how, ours, truth,
                    allowed(part, how, official.get(part), hashed=hashed),
                    onset(pieces.config),
                    positions if part in (*AT_POSITIONS, "logits") else None,
                )  # fmt: skip
                rows.append(row)
                if how == "rounded":
                    official[part] = row.relative
    return rows
