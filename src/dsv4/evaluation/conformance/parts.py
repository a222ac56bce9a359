"""What one layer computes, part by part, all parts from the same inputs.

Feeding every part what `exact` fed it tells which of them differs: an error does not reach those
behind it. Positions come first in every part.

Shapes: T tokens, S streams, D hidden channels, C head channels, N entries, I index channels,
E experts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dsv4 import ops
from dsv4.config import ModelConfig
from dsv4.evaluation.conformance.variant import Variant
from dsv4.model.attention import Reading
from dsv4.model.block import Block
from dsv4.model.engram import Ticket
from dsv4.model.moe import Routing
from dsv4.model.mtp import PredictionBlock
from dsv4.model.state import LayerState, State
from dsv4.numerics.policy import EXACT, Numerics

ORDER = (
    "window",
    "entries",
    "index keys",
    "selection",
    "attention",
    "steps",
    "affinities",
    "choice",
    "experts",
    "affinities, large",
    "experts, large",
    "layer",
    "prediction",
)
"""Parts in the order in which a pass computes them; the first that differs is where to look.
(`choice, large` is left out: many large affinities are equal, and any of them may be taken.)"""

LARGE_LOGIT = 150.0
"""Router logits that the large inputs reach: beyond what exp holds in float32, on both sides."""
BEYOND_LIMIT = 4.0
"""How many times the clamp of the gated product the large inputs reach."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """What every part of a layer is fed: ids, the streams before it, and what `exact` made of them
    in front of attention and experts.

    `steps`: positions, in order, that are also computed singly, with what lies between them in
    chunks. `large`: the experts'
    inputs multiplied until gates exceed their clamp and router logits the range of exp.
    `embedded`: embeddings of the ids, which the MTP block joins to the streams; None otherwise.
    """

    ids_1T: Tensor
    streams_1TSD: Tensor
    attention_1TD: Tensor
    experts_1TD: Tensor
    large_1TD: Tensor
    steps: tuple[int, ...]
    embedded_1TD: Tensor | None = None


def gather(
    block: Block,
    ids_1T: Tensor,
    streams_1TSD: Tensor,
    ticket: Ticket | None,
    steps: Sequence[int],
    embedded_1TD: Tensor | None = None,
) -> tuple[Inputs, Tensor]:
    """(inputs of the parts, streams after the layer): what `exact` sees on its way through."""
    seen: dict[str, Tensor] = {}

    def note(name: str, module: torch.nn.Module) -> torch.utils.hooks.RemovableHandle:
        return module.register_forward_pre_hook(lambda _, inputs: seen.update({name: inputs[0]}))

    hooks = [note("attention", block.attn), note("experts", block.ffn)]
    try:
        after_1TSD = whole(block, ids_1T, streams_1TSD, ticket, EXACT, embedded_1TD)
    finally:
        for hook in hooks:
            hook.remove()
    x_1TD = seen["experts"]
    large_1TD = x_1TD * _enlargement(block, x_1TD)
    inputs = Inputs(
        ids_1T,
        streams_1TSD,
        seen["attention"],
        x_1TD,
        large_1TD,
        tuple(steps),
        embedded_1TD,
    )
    return inputs, after_1TSD


def compute(
    block: Block,
    inputs: Inputs,
    ticket: Ticket | None,
    variant: Variant,
    *,
    stepwise: bool = True,
) -> dict[str, Tensor]:
    """Part -> its numbers, positions first, as float32 (choices as bool); `steps` if `stepwise`."""
    numerics = variant.numerics
    with torch.no_grad(), variant.within():
        parts = attention(block, inputs.attention_1TD, numerics)
        if stepwise:
            parts["steps"] = _steps(block, inputs.attention_1TD, inputs.steps, numerics)
        parts |= experts(block, inputs.experts_1TD, inputs.ids_1T, numerics, "")
        parts |= experts(block, inputs.large_1TD, inputs.ids_1T, numerics, ", large")
        name = "layer" if inputs.embedded_1TD is None else "prediction"
        after_1TSD = whole(
            block, inputs.ids_1T, inputs.streams_1TSD, ticket, numerics, inputs.embedded_1TD
        )
        parts[name] = after_1TSD[0].flatten(1)
    return widened(parts)


def widened(parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Parts as float32, choices as they are."""
    return {
        name: value if value.dtype == torch.bool else value.float() for name, value in parts.items()
    }


def steps(
    block: Block, attention_1TD: Tensor, positions: Sequence[int], variant: Variant
) -> Tensor:
    """Attention of the tokens that are computed singly, `[K, D]` float32."""
    with torch.no_grad(), variant.within():
        return _steps(block, attention_1TD, positions, variant.numerics).float()


def ticket(block: Block, found: Sequence[Tensor], numerics: Numerics) -> Ticket | None:
    """What the Engram of a layer reads: its rows among those of all Engrams."""
    if block.engram is None:
        return None
    return block.engram.submit(found[block.engram.number], numerics)


def through(
    block: Block, ids_1T: Tensor, streams_1TSD: Tensor, ticket: Ticket | None, variant: Variant
) -> Tensor:
    """The streams after a layer, of a variant's own streams before it."""
    with torch.no_grad(), variant.within():
        return whole(block, ids_1T, streams_1TSD, ticket, variant.numerics, None)


def whole(
    block: Block,
    ids_1T: Tensor,
    streams_1TSD: Tensor,
    ticket: Ticket | None,
    numerics: Numerics,
    embedded_1TD: Tensor | None,
) -> Tensor:
    """The streams after a layer, or after the MTP block (which joins `embedded_1TD` to them)."""
    state = _state(block.config, block.attn.ratio, numerics)
    streams_1TSD = streams_1TSD.to(numerics.dtype)
    if embedded_1TD is not None:
        assert isinstance(block, PredictionBlock)
        embedded_1TD = embedded_1TD.to(numerics.dtype)
        _, after_1TSD, _ = block.predict(streams_1TSD, embedded_1TD, ids_1T, 0, state, numerics)
        return after_1TSD
    after_1TSD, _ = block(streams_1TSD, ids_1T, 0, state, numerics, ticket)
    return after_1TSD


def _state(config: ModelConfig, ratio: int, numerics: Numerics) -> LayerState:
    """An empty state of one layer. (The whole sequence is before its Engram at once, so its
    convolution needs none.)"""
    return State.empty(config, (ratio,), packed=numerics.packed).layers[0]


def attention(block: Block, attention_1TD: Tensor, numerics: Numerics) -> dict[str, Tensor]:
    """The parts of attention over a whole sequence."""
    attn, x_1TD = block.attn, attention_1TD.to(numerics.dtype)
    config, T = block.config, x_1TD.shape[1]
    state = _state(config, attn.ratio, numerics)
    readings: list[Reading] = []
    attn.observer = readings.append if attn.indexer is not None else None
    try:
        parts = {"attention": attn(x_1TD, 0, state, numerics)[0]}
    finally:
        attn.observer = None
    parts["window"] = state.window.read(state.window.needed(T), T)[0]
    if state.compressor is not None and attn.ratio <= T:
        parts["entries"] = state.compressor.entries.read(T // attn.ratio)[0]
    if state.indexer is not None and attn.ratio <= T:
        keys_NI = state.indexer.entries.read(T // attn.ratio)[0]
        # The Hadamard rotation is its own inverse.
        parts["index keys"] = ops.hadamard(keys_NI) if numerics.rounds_cache else keys_NI
    if readings and readings[0].selected_BTK is not None:
        parts["selection"] = _chosen(readings[0].selected_BTK[0], T // attn.ratio)
    return parts


def _steps(
    block: Block, attention_1TD: Tensor, positions: Sequence[int], numerics: Numerics
) -> Tensor:
    """Attention of single tokens `[K, D]`: chunks lead up to each, over one state."""
    x_1TD = attention_1TD.to(numerics.dtype)
    state, done, rows = _state(block.config, block.attn.ratio, numerics), 0, []
    for position in positions:
        if position > done:
            block.attn(x_1TD[:, done:position].contiguous(), done, state, numerics)
        done = position + 1
        y_11D = block.attn(x_1TD[:, position:done].contiguous(), position, state, numerics)
        rows.append(y_11D[0, 0])
    return torch.stack(rows)


def _chosen(selected_TK: Tensor, count: int) -> Tensor:
    """Which entries each token reads, `[T, N]`."""
    chosen_TN = torch.zeros(len(selected_TK), count + 1, dtype=torch.bool)
    chosen_TN.scatter_(1, selected_TK + 1, True)
    return chosen_TN[:, 1:]


def experts(
    block: Block, x_1TD: Tensor, ids_1T: Tensor, numerics: Numerics, suffix: str
) -> dict[str, Tensor]:
    """The parts of router and experts; tokens do not depend on each other."""
    routing: Routing
    y_1TD, routing = block.ffn(x_1TD.to(numerics.dtype), ids_1T, numerics)
    chosen_TE = torch.zeros_like(routing.scores_NE, dtype=torch.bool)
    chosen_TE.scatter_(1, routing.experts_NK, True)
    return {
        f"affinities{suffix}": routing.scores_NE,
        f"choice{suffix}": chosen_TE,
        f"experts{suffix}": y_1TD[0],
    }


def _enlargement(block: Block, x_1TD: Tensor) -> float:
    """What to multiply the experts' inputs with."""
    ffn = block.ffn
    gates = ops.linear(x_1TD, ffn.shared_experts.w1.weight, EXACT)
    logits = ops.linear_f32(x_1TD, ffn.gate.weight, EXACT)
    return max(
        BEYOND_LIMIT * ffn.limit / max(float(gates.abs().max()), 1e-9),
        LARGE_LOGIT / max(float(logits.abs().max()), 1e-9),
    )
