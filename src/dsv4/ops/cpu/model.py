"""A whole forward pass as one native call.

Shapes: N tokens of all sequences in one row, S residual streams, D hidden channels, L layers,
E experts, K experts per token, W tokens whose logits are wanted, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from dsv4.ops.cpu.engram import Memory, Ngrams
from dsv4.ops.cpu.handles import Handles
from dsv4.ops.cpu.native import native
from dsv4.ops.cpu.sublayers import Attention, Collapse, Mixture, connections
from dsv4.ops.cpu.views import reached, rings, views


class Model:
    """A model whose experts are all in memory."""

    def __init__(self, module: Any) -> None:
        self._handles = Handles()
        self._layers = []
        for block in module.layers:
            first, second = connections(block)
            memory = Memory(block.engram) if block.engram is not None else None
            parts = (first, Attention(block.attn), second, Mixture(block.ffn), memory)
            self._layers.append(parts)
        experts = self._layers[0][3]
        self._experts, self._chosen = experts.experts, experts.experts_per_token
        self._streams = module.config.hc_mult
        self._vocabulary, self._hidden = module.embed.weight.shape
        self._collapse = Collapse(module)
        self._ngrams = Ngrams(module.ngrams) if module.ngrams is not None else None
        self._native = native.Model(
            embedding=self._handles.matrix(module.embed.weight),
            layers=[tuple(part and part.native for part in parts) for parts in self._layers],
            collapse=self._collapse.native,
            head=self._handles.matrix(module.head.weight),
            ngrams=self._ngrams and self._ngrams.native,
        )

    def __call__(
        self, ids_N: Tensor, runs: Sequence[tuple[Any, int, int]], wanted_W: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(logits `[W, V]` of the tokens numbered `wanted_W`, streams after the last layer
        `[N, S, D]`, affinities `[L, N, E]`, chosen experts `[L, N, K]`).

        Every run is (`State`, tokens, position of the first); the states, with room for these
        tokens, are extended.
        """
        N, L = ids_N.numel(), len(self._layers)
        ids_N, wanted_W = ids_N.long().contiguous(), wanted_W.contiguous()
        streams_NSD = torch.empty(N, self._streams, self._hidden)
        scores_LNE = torch.empty(L, N, self._experts)
        experts_LNK = torch.empty(L, N, self._chosen, dtype=torch.int64)
        logits_WV = torch.empty(wanted_W.numel(), self._vocabulary)
        extents, sequences = [], [[] for _ in self._layers]  # type: ignore[var-annotated]
        past = []
        for state, tokens, start in runs:
            for seen, layer in zip(sequences, state.layers, strict=True):
                seen += views(layer)
            if self._ngrams is not None:
                past += rings(state.ids)
            batch = len(sequences[0]) - len(extents)
            extents += [(tokens, start, state.table.sealed)] * batch
        self._native.run(
            ids_N.data_ptr(),
            N,
            extents,
            sequences,
            past,
            streams_NSD.data_ptr(),
            scores_LNE.data_ptr(),
            experts_LNK.data_ptr(),
            logits_WV.data_ptr(),
            wanted_W.data_ptr(),
            wanted_W.numel(),
        )
        for state, tokens, start in runs:
            for layer in state.layers:
                reached(layer, start + tokens)
            if self._ngrams is not None:
                state.ids.reached(start + tokens)
        return logits_WV, streams_NSD, scores_LNE, experts_LNK


def model(module: Any) -> Model | None:
    """A model as one call, unless experts or tables are streamed: those are waited for."""
    streamed = any(
        block.ffn.source is not None or (block.engram is not None and block.engram.source)
        for block in module.layers
    )
    return None if streamed else Model(module)
