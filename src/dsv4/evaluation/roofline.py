"""The least that a forward pass has to read and compute, by stage of the native kernels.

Bytes are those of weights as they are stored (scales included) and of cached rows as the state
stores them, each read once in a pass: what many tokens of a pass share counts once, activations
stay in caches and do not count. Products count two operations per weight and token. The floor of a
stage is the longer of its bytes at the read bandwidth and its operations at the GEMM rate. Weights
that fit into the processor's caches are read faster than that.

Stages: connect (hyper-connections, norms), project (all products of a layer's input), compress,
query, select (index scores), attend, output, route, gate_up, down (experts), head, embed, memory
(Engram).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import Tensor

from dsv4.config import CSA
from dsv4.engine.forward import CHUNK
from dsv4.evaluation.machine import Ceilings
from dsv4.model.attention import Attention
from dsv4.model.block import Block
from dsv4.model.compressor import Compressor
from dsv4.model.engram import Engram
from dsv4.model.moe import Expert, MoE
from dsv4.model.state import row_formats
from dsv4.model.transformer import Transformer
from dsv4.numerics.adapted import Factor

STAGES = (
    "connect project compress query select attend output route gate_up down head embed memory"
).split()

FLOAT = 4
"""Bytes of a float32 row element in the compressors' rings."""


@dataclass(frozen=True, slots=True)
class Cost:
    """Bytes read and floating point operations."""

    bytes: float = 0.0
    flops: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.bytes + other.bytes, self.flops + other.flops)

    def floor(self, ceilings: Ceilings) -> float:
        """The shortest time in seconds that the machine allows."""
        return max(self.bytes / ceilings.read_bytes, self.flops / ceilings.flops)


Costs = dict[str, Cost]


def add(parts: Iterable[Costs]) -> Costs:
    """The sum by stage, every stage named."""
    total = dict.fromkeys(STAGES, Cost())
    for part in parts:
        for stage, cost in part.items():
            total[stage] += cost
    return total


def total(costs: Costs) -> Cost:
    return sum(costs.values(), Cost())


def floor(costs: Costs, ceilings: Ceilings) -> float:
    """Seconds that a pass takes at least: its stages run one after another."""
    return sum(cost.floor(ceilings) for cost in costs.values())


def forward_cost(
    model: Transformer, start: int, tokens: int = 1, touched: Sequence[float] | None = None
) -> Costs:
    """One pass over `tokens` ids after `start` others, with the logits of the last id.

    `touched`: distinct experts that each layer's router chose; without it the number expected if
    every expert were equally likely (exact for one token).
    """
    if touched is None:
        touched = [expected_experts(model, tokens)] * len(model.layers)
    layers = [
        _layer(model, layer, start, tokens, count)
        for layer, count in zip(model.layers, touched, strict=True)
    ]
    return add([*layers, _ends(model, tokens)])


def prompt_cost(model: Transformer, length: int) -> Costs:
    """A prompt of `length` ids, in the chunks in which it is computed."""
    starts = range(0, length, CHUNK)
    return add(forward_cost(model, start, min(CHUNK, length - start)) for start in starts)


def expected_experts(model: Transformer, tokens: int) -> float:
    """Distinct experts of `tokens` tokens that choose independently and evenly."""
    experts, chosen = model.config.n_routed_experts, model.config.num_experts_per_tok
    return experts * (1 - (1 - chosen / experts) ** tokens)


def _product(tokens: int, *weights: Factor) -> Cost:
    return Cost(
        float(sum(weight.nbytes for weight in weights)),
        2.0 * tokens * sum(math.prod(weight.shape) for weight in weights),
    )


def _vectors(*tensors: Tensor | None) -> Cost:
    return Cost(float(sum(tensor.nbytes for tensor in tensors if tensor is not None)))


def _ends(model: Transformer, tokens: int) -> Costs:
    S, D = model.config.hc_mult, model.config.hidden_size
    table = model.embed.weight
    # The collapse of the last token's streams: mixing weights, mean square, weighted sum.
    collapse = Cost(0.0, 2.0 * S * S * D + 4.0 * S * D)
    vectors = (model.hc_head_fn, model.hc_head_base, model.hc_head_scale, model.norm.weight)
    return {
        "connect": _vectors(*vectors) + collapse,
        "head": _product(1, model.head.weight),
        "embed": Cost(float(tokens * table.nbytes // table.shape[0])),
    }


def _layer(model: Transformer, layer: object, start: int, tokens: int, touched: float) -> Costs:
    assert isinstance(layer, Block)
    return add(
        [
            {"connect": _connections(layer, tokens)},
            _attention(layer.attn, start, tokens, model.numerics.packed),
            _experts(layer.ffn, tokens, touched),
            _memory(layer.engram, tokens) if layer.engram is not None else {},
        ]
    )


def _memory(engram: Engram, tokens: int) -> Costs:
    """Rows of the table one by one, their product, the gates."""
    table, (S, D) = engram.embed.weight, engram.q_weight.shape
    rows = engram.wkv.weight.shape[1] // table.shape[1]
    looked_up = Cost(float(tokens * rows * table.nbytes // table.shape[0]))
    # Of every stream: two mean squares, the weighted dot product, the value added.
    gates = Cost(0.0, 9.0 * tokens * S * D) + _vectors(engram.q_weight, engram.k_weight)
    return {"memory": looked_up + _product(tokens, engram.wkv.weight) + gates}


def _connections(block: Block, tokens: int) -> Cost:
    S, D = block.config.hc_mult, block.config.hidden_size
    mixing, kept = 2 * (S * S + 2 * S) * S * D, 2 * S * S * D + 2 * S * D
    each = mixing + 4 * S * D + kept  # in between: mean square, collapse
    return Cost(0.0, 2.0 * tokens * each) + _vectors(
        block.hc_attn_fn,
        block.hc_attn_base,
        block.hc_attn_scale,
        block.attn_norm.weight,
        block.hc_ffn_fn,
        block.hc_ffn_base,
        block.hc_ffn_scale,
        block.ffn_norm.weight,
    )


def _attention(attn: Attention, start: int, tokens: int, packed: bool) -> Costs:
    config, ratio, end = attn.config, attn.ratio, start + tokens
    entry, key = (row.stored * row.dtype.itemsize for row in row_formats(config, packed))
    costs = {
        "project": _product(tokens, attn.wq_a.weight, attn.wkv.weight),
        "compress": _vectors(attn.q_norm.weight, attn.kv_norm.weight),
        "query": _product(tokens, attn.wq_b.weight),
        "output": _product(tokens, attn.wo_a.weight, attn.wo_b.weight),
    }
    for part in (attn.compressor, attn.indexer.compressor if attn.indexer else None):
        if part is not None:
            costs["project"] += _product(tokens, part.wkv.weight, part.wgate.weight)
            costs["compress"] += _pooling(part, tokens)

    window = config.sliding_window
    rows = end - max(0, start + 1 - window)
    read = sum(min(window, position) for position in range(start + 1, end + 1))
    if ratio:
        # Entries that each query may see, and that all of them see together.
        seen = [position // ratio for position in range(start + 1, end + 1)]
        entries = seen[-1]
        indexer = attn.indexer
        if indexer is not None and entries > indexer.topk:
            width = config.index_head_dim
            costs["project"] += _product(tokens, indexer.weights_proj.weight)
            costs["query"] += _product(tokens, indexer.wq_b.weight)
            per_key = indexer.heads * (2 * width + 2)  # dot products; relu, weight and sum
            costs["select"] = Cost(float(entries * key), float(per_key * sum(seen)))
            seen = [min(indexer.topk, count) for count in seen]
            entries = min(entries, sum(seen))
        rows += entries
        read += sum(seen)
    per_row = 4 * config.num_attention_heads * config.head_dim  # scores and weighted sum
    costs["attend"] = Cost(float(rows * entry), float(per_row * read)) + _vectors(attn.attn_sink)
    return costs


def _pooling(part: Compressor, tokens: int) -> Cost:
    """Spread over the tokens of a block: one of `ratio` tokens pays for all of them."""
    width, m = part.norm.weight.shape[0], part.ratio
    rows = m * (2 if m == CSA else 1)
    blocks = tokens / m
    # Values and gates; the bias, exponent, product and two sums of a softmax-weighted mean.
    pooled = Cost(blocks * 2 * FLOAT * rows * width, blocks * 5 * rows * width)
    shared = _vectors(part.ape, part.norm.weight)
    return pooled + Cost(min(1.0, blocks) * shared.bytes)


def _experts(moe: MoE, tokens: int, touched: float) -> Costs:
    gate, table = moe.gate, moe.gate.tid2eid
    route = _product(tokens, gate.weight) + _vectors(gate.bias)
    if table is not None:
        route += Cost(float(tokens * table.shape[1] * table.itemsize))
    experts = [expert for expert in moe.experts if isinstance(expert, Expert)]
    shared = moe.shared_experts

    def routed(matrices: Sequence[tuple[Factor, ...]]) -> Cost:
        """All experts stored: the share that is read, and the products of those chosen."""
        stored = _product(tokens, *(weight for row in matrices for weight in row))
        share, chosen = touched / len(experts), gate.experts_per_token / len(experts)
        return Cost(stored.bytes * share, stored.flops * chosen)

    up = routed([(expert.w1.weight, expert.w3.weight) for expert in experts])
    down = routed([(expert.w2.weight,) for expert in experts])
    return {
        "route": route,
        "gate_up": up + _product(tokens, shared.w1.weight, shared.w3.weight),
        "down": down + _product(tokens, shared.w2.weight),
    }
