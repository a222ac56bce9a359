"""A whole forward pass as one native call.

Shapes: B batch, T tokens, N = B * T tokens in one row, S residual streams, D hidden channels,
L layers, E experts, K experts per token, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from dsv4.ops.cpu.handles import Handles
from dsv4.ops.cpu.native import native
from dsv4.ops.cpu.sublayers import Attention, Collapse, Mixture, connections
from dsv4.ops.cpu.views import addresses, reached


class Model:
    """A model whose experts are all in memory."""

    def __init__(self, module: Any) -> None:
        self._handles = Handles()
        self._layers = []
        for block in module.layers:
            first, second = connections(block)
            self._layers.append((first, Attention(block.attn), second, Mixture(block.ffn)))
        experts = self._layers[0][3]
        self._experts, self._chosen = experts.experts, experts.experts_per_token
        self._streams = module.config.hc_mult
        self._vocabulary, self._hidden = module.embed.weight.shape
        self._collapse = Collapse(module)
        self._native = native.Model(
            embedding=self._handles.matrix(module.embed.weight),
            layers=[tuple(part.native for part in parts) for parts in self._layers],
            collapse=self._collapse.native,
            head=self._handles.matrix(module.head.weight),
        )

    def __call__(
        self, ids_BT: Tensor, start: int, states: Sequence[Any], last_only: bool
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(logits `[B, T or 1, V]`, streams after the last layer `[B, T, S, D]`, affinities
        `[L, N, E]`, chosen experts `[L, N, K]`). Extends `states`, one per layer.
        """
        B, T = ids_BT.shape
        L = len(self._layers)
        ids_BT = ids_BT.long().contiguous()
        streams_BTSD = torch.empty(B, T, self._streams, self._hidden)
        scores_LNE = torch.empty(L, B * T, self._experts)
        experts_LNK = torch.empty(L, B * T, self._chosen, dtype=torch.int64)
        logits_BTV = torch.empty(B, 1 if last_only else T, self._vocabulary)
        self._native.run(
            ids_BT.data_ptr(),
            T,
            start,
            [addresses(state, B, start + T) for state in states],
            streams_BTSD.data_ptr(),
            scores_LNE.data_ptr(),
            experts_LNK.data_ptr(),
            logits_BTV.data_ptr(),
            last_only,
        )
        for state in states:
            reached(state, start + T)
        return logits_BTV, streams_BTSD, scores_LNE, experts_LNK


def model(module: Any) -> Model | None:
    """A model as one call, unless experts are streamed: they are waited for in between."""
    return None if any(block.ffn.source is not None for block in module.layers) else Model(module)
