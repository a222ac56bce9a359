"""The native forms of Engram: which rows the tokens read, and what a layer adds to its streams.

Shapes: B batch, T tokens, R rows read per token, W channels of them, S residual streams, D hidden
channels, N longest n-gram.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dsv4.numerics.quantized import Weight
from dsv4.ops.cpu.handles import Handles, require
from dsv4.ops.cpu.native import native


class Ngrams:
    """The hashes of all tables; for a whole pass, which keeps their results to itself."""

    def __init__(self, module: Any) -> None:
        engram = module.engram
        self._handles = Handles()
        constants = zip(engram.multipliers, engram.primes, engram.offsets, strict=True)
        self.native = native.Ngrams(
            canonical=self._handles.integers(module.token_map),
            padding=engram.pad_id,
            longest=engram.max_ngram_size,
            reads=engram.hashes,
            tables=[tuple(map(self._integers, numbers)) for numbers in constants],
        )

    def _integers(self, numbers: tuple[int, ...]) -> int:
        return self._handles.integers(torch.tensor(numbers))


class Memory:
    """The memory of one layer, without the paper's convolution."""

    def __init__(self, module: Any) -> None:
        require(module.conv is None, "Engram's convolution has no kernel")
        self._handles = Handles()
        streams, width = module.q_weight.shape
        table = module.embed.weight
        if module.source is not None and isinstance(table, Tensor):
            table = table[:0]  # rows come from elsewhere: not to be copied into another type
        self._table = self._handles.matrix(table)
        self.native = native.Engram(
            table=self._table,
            wkv=self._handles.matrix(module.wkv.weight),
            q_weight=self._handles.vector(module.q_weight),
            k_weight=self._handles.vector(module.k_weight),
            reads=module.wkv.weight.shape[1] // table.shape[1],
            streams=streams,
            width=width,
            eps=module.eps,
        )

    def gather(self, rows_BTR: Tensor) -> Tensor:
        """What the rows with these numbers hold, side by side: `[B, T, W]`."""
        return _gather(self._table, rows_BTR)

    def __call__(self, streams_BTSD: Tensor, read_BTW: Tensor) -> Tensor:
        """The streams `[B, T, S, D]` with what was read added, as far as it fits each of them."""
        out_BTSD = streams_BTSD.clone(memory_format=torch.contiguous_format)
        read_BTW = read_BTW.contiguous()
        tokens = out_BTSD.shape[0] * out_BTSD.shape[1]
        self.native.add(read_BTW.data_ptr(), tokens, out_BTSD.data_ptr())
        return out_BTSD


def gather(table: Weight, rows_BTR: Tensor) -> Tensor:
    """Rows of a table that the caller keeps alive, side by side: `[B, T, W]` float32.

    Needs the native kernels.
    """
    handles = Handles()  # what it keeps is needed until the end
    return _gather(handles.matrix(table), rows_BTR)


def _gather(table: Any, rows_BTR: Tensor) -> Tensor:
    B, T, R = rows_BTR.shape
    rows_BTR = rows_BTR.contiguous()
    read_BTW = torch.empty(B, T, R * table.cols)
    native.gather(table, rows_BTR.data_ptr(), B * T, R, read_BTW.data_ptr())
    return read_BTW
