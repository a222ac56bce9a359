"""All layers of a model as one native call.

Shapes: B batch, T tokens, N = B * T tokens in one row, S residual streams, D hidden channels,
L layers, E experts, K experts per token.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from dsv4.ops.cpu.native import native
from dsv4.ops.cpu.sublayers import Attention, Mixture, connections
from dsv4.ops.cpu.views import addresses, reached


class Stack:
    """The layers of a model whose experts are all in memory."""

    def __init__(self, blocks: Sequence[Any]) -> None:
        self._parts = []
        for block in blocks:
            first, second = connections(block)
            self._parts.append((first, Attention(block.attn), second, Mixture(block.ffn)))
        experts = self._parts[0][3]
        self._experts, self._chosen = experts.experts, experts.experts_per_token
        self._native = native.Stack([tuple(part.native for part in parts) for parts in self._parts])

    def __call__(
        self, streams_BTSD: Tensor, ids_BT: Tensor, start: int, states: Sequence[Any]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(streams after the last layer, affinities `[L, N, E]`, chosen experts `[L, N, K]`).

        Extends `states`, one per layer.
        """
        B, T = ids_BT.shape
        streams_BTSD = streams_BTSD.contiguous()
        ids = ids_BT.long().contiguous()
        scores_LNE = torch.empty(len(self._parts), B * T, self._experts)
        experts_LNK = torch.empty(len(self._parts), B * T, self._chosen, dtype=torch.int64)
        out_BTSD = torch.empty_like(streams_BTSD)
        self._native.run(
            streams_BTSD.data_ptr(),
            ids.data_ptr(),
            T,
            start,
            [addresses(state, B, start + T) for state in states],
            scores_LNE.data_ptr(),
            experts_LNK.data_ptr(),
            out_BTSD.data_ptr(),
        )
        for state in states:
            reached(state, start + T)
        return out_BTSD, scores_LNE, experts_LNK


def layers(module: Any) -> Stack | None:
    """A model's layers as one call, unless experts are streamed: they are waited for in between."""
    blocks = list(module.layers)
    return None if any(block.ffn.source is not None for block in blocks) else Stack(blocks)
