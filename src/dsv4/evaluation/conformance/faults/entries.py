"""Known failures in attention: compressed entries, the indexer, sinks, the cache."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from dsv4 import ops
from dsv4.evaluation.conformance.faults.fault import Fault, computed, into, swapped
from dsv4.model import attention, compressor, indexer
from dsv4.numerics.activation import fake_quant_fp8, fake_quant_int8

FAULTS: dict[str, Fault] = {}
_fault = into(FAULTS)


@_fault(7, "queries see entries of the future", "entry i is visible from token m * (i + 1) - 1 on")
def _no_causal_mask_on_entries() -> Iterator[None]:
    attend, select = ops.attend._bound, ops.select._bound

    def seeing_all(
        q_BTHC: Tensor, rows: Tensor, entries: Tensor | None, selected: Tensor | None,
        *args: Any, **kwargs: Any,
    ) -> Tensor:  # fmt: skip
        if entries is not None and selected is None:
            B, T = q_BTHC.shape[:2]
            selected = torch.arange(entries.shape[1]).expand(B, T, -1)
        return attend(q_BTHC, rows, entries, selected, *args, **kwargs)

    def choosing_all(q: Tensor, weights: Tensor, keys: Tensor, **kwargs: Any) -> Tensor:
        kwargs["start"] = keys.shape[1] * kwargs["ratio"]
        return select(q, weights, keys, **kwargs)

    with computed(ops.attend, seeing_all), computed(ops.select, choosing_all):
        yield


@_fault(7, "entries are visible one token late", "a block's last token sees its block")
def _entries_one_token_late() -> Iterator[None]:
    attend, select = ops.attend._bound, ops.select._bound

    def late(
        q_BTHC: Tensor, rows: Tensor, entries: Tensor | None, selected: Tensor | None,
        *args: Any, **kwargs: Any,
    ) -> Tensor:  # fmt: skip
        if entries is not None and selected is None:
            B, T = q_BTHC.shape[:2]
            at_T = torch.arange(kwargs["start"], kwargs["start"] + T)
            number_N = torch.arange(entries.shape[1])
            seen_TN = number_N < at_T[:, None] // kwargs["ratio"]
            selected = torch.where(seen_TN, number_N, -1).expand(B, -1, -1)
        return attend(q_BTHC, rows, entries, selected, *args, **kwargs)

    def choosing(q: Tensor, weights: Tensor, keys: Tensor, **kwargs: Any) -> Tensor:
        return select(q, weights, keys, **{**kwargs, "start": kwargs["start"] - 1})

    with computed(ops.attend, late), computed(ops.select, choosing):
        yield


@_fault(8, "entries pool four tokens instead of eight", "a CSA entry also pools the block before")
def _overlap_lost() -> Iterator[None]:
    def pool(values: Tensor, gates: Tensor, ape: Tensor, *, has_previous: bool) -> Tensor:
        D, m = ape.shape[1] // 2, ape.shape[0]
        first = m if has_previous else 0
        values, gates = (rows[:, first:, D:].contiguous() for rows in (values, gates))
        return ops.pool(values, gates, ape[:, D:])

    with computed(ops.pool_overlapping, pool):
        yield


@_fault(8, "the overlap is lost at chunk boundaries", "keep the rows of the last complete block")
def _overlap_lost_between_chunks() -> Iterator[None]:
    reference = ops.pool_overlapping._bound

    def pool(values: Tensor, gates: Tensor, ape: Tensor, *, has_previous: bool) -> Tensor:
        first = ape.shape[0] if has_previous else 0
        return reference(values[:, first:], gates[:, first:], ape, has_previous=False)

    with computed(ops.pool_overlapping, pool):
        yield


@_fault(14, "no ReLU in the indexer", "scores sum w_h * relu(q_h . k)")
def _indexer_without_relu() -> Iterator[None]:
    def select(
        q_BTHI: Tensor, weights_BTH: Tensor, keys_BNI: Tensor, *, start: int, ratio: int, k: int
    ) -> Tensor:
        dots = torch.einsum("bthi,bni->bthn", q_BTHI.float(), keys_BNI.float())
        scores = (dots * weights_BTH.float()[..., None]).sum(2)
        visible_T = (torch.arange(q_BTHI.shape[1]) + start + 1) // ratio
        hidden = torch.arange(keys_BNI.shape[1]) >= visible_T[:, None]
        order = scores.masked_fill(hidden, -torch.inf).sort(dim=-1, descending=True, stable=True)
        return order.indices[..., :k].masked_fill(order.values[..., :k] == -torch.inf, -1)

    with computed(ops.select, select):
        yield


@_fault(15, "no Hadamard rotation in front of FP4", "rotate index vectors before they are rounded")
def _indexer_without_hadamard() -> Iterator[None]:
    def rounded(x: Tensor, numerics: Any) -> Tensor:
        # Rounded unrotated, then rotated, as which the vectors are read back.
        return ops.hadamard(indexer.fake_quant_fp4(x)) if numerics.rounds_cache else x

    with swapped(indexer.Indexer, "_round", staticmethod(rounded)):
        yield


@_fault(20, "compressor projections in FP8", "wkv and wgate of compressors are float32 products")
def _compressor_in_fp8() -> Iterator[None]:
    reference, forward = ops.linear_f32._bound, compressor.Compressor.forward

    def rounded(x: Tensor, weight: Tensor, numerics: Any) -> Tensor:
        x, weight = (fake_quant_fp8(value.float(), 128) for value in (x, weight))
        return reference(x, weight, numerics)

    def changed(self: compressor.Compressor, *args: Any) -> Tensor:
        with computed(ops.linear_f32, rounded):
            return forward(self, *args)

    with swapped(compressor.Compressor, "forward", changed):
        yield


@_fault(
    21, "the cache is rounded to int8 blocks again", "store 448 channels in FP8, 64 in bfloat16"
)
def _cache_in_int8() -> Iterator[None]:
    reference = attention.Attention._round

    def rounded(self: attention.Attention, kv: Tensor, numerics: Any) -> Tensor:
        return fake_quant_int8(reference(self, kv, numerics).float()).to(kv.dtype)

    with swapped(attention.Attention, "_round", rounded):
        yield


@_fault(16, "attention sinks are dropped", "the sink takes part in the softmax's sum")
def _no_sinks() -> Iterator[None]:
    reference = ops.attend._bound

    def attend(
        q: Tensor, rows: Tensor, entries: Tensor | None, selected: Tensor | None, sink_H: Tensor,
        **kwargs: Any,
    ) -> Tensor:  # fmt: skip
        return reference(q, rows, entries, selected, sink_H - torch.inf, **kwargs)

    with computed(ops.attend, attend):
        yield
