"""A model in pieces, each mapped from its folder while it is used: memory holds one layer.

Shapes: B batch, T tokens, S residual streams, D hidden channels, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn

from dsv4 import ops
from dsv4.checkpoint.loading import CanonicalIds, fill
from dsv4.checkpoint.plan import Plan, Source
from dsv4.config import ModelConfig
from dsv4.model.block import Block, collapse_head
from dsv4.model.engram import NgramIndex
from dsv4.model.mtp import PredictionBlock
from dsv4.model.parameters import Dense, Embedding, Norm
from dsv4.model.transformer import make_layer
from dsv4.numerics.policy import Numerics

M = TypeVar("M", bound=nn.Module)


class Head(nn.Module):
    """What follows the last layer; its weights have the names of the released checkpoint."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        S, hidden = config.hc_mult, config.hidden_size
        self.config = config
        self.norm = Norm(hidden)
        self.head = Dense(hidden, config.vocab_size)
        self.hc_head_fn = nn.Parameter(torch.empty(S, S * hidden))
        self.hc_head_base = nn.Parameter(torch.empty(S))
        self.hc_head_scale = nn.Parameter(torch.empty(1))

    def forward(self, streams_BTSD: Tensor, numerics: Numerics) -> Tensor:
        """Logits `[B, T, V]` float32."""
        x_BTD = collapse_head(streams_BTSD, self, numerics)
        fused = ops.fused("linear", self.head, numerics)
        if fused is not None:
            logits_BTV: Tensor = fused(x_BTD)
            return logits_BTV
        return ops.linear_f32(x_BTD, self.head.weight, numerics)


class Pieces:
    """Makes parts of the model in a checked folder. A part's files are mapped as long as it lives.

    `canonical_ids`: asked if there is an Engram whose token map the folder does not store.
    """

    def __init__(self, plan: Plan, canonical_ids: CanonicalIds | None = None) -> None:
        self.plan, self.config = plan, plan.config
        self._canonical_ids = canonical_ids

    def embed(self, ids_BT: Tensor) -> Tensor:
        """The embeddings `[B, T, D]` of ids, float32."""
        config = self.config
        table = self._made("embed.", lambda: Embedding(config.vocab_size, config.hidden_size))
        x_BTD: Tensor = table(ids_BT, torch.float32)
        return x_BTD

    def layer(self, number: int) -> Block:
        """A layer with its weights."""
        return self._made(f"layers.{number}.", lambda: make_layer(self.config, number))

    def prediction(self) -> PredictionBlock | None:
        """The MTP block, if there is one."""
        if self.config.draft_stages or not self.config.num_nextn_predict_layers:
            return None
        return self._made("mtp.0.", lambda: PredictionBlock(self.config))

    def head(self) -> Head:
        """What follows the last layer."""
        with torch.device("meta"):
            head = Head(self.config)
        fill(head, self._sources("norm.", "head.", "hc_head_"))
        return head

    def ngrams(self) -> NgramIndex | None:
        """What Engrams look up, if there are any."""
        engram = self.config.engram
        if engram is None:
            return None
        if not self.plan.lacks_token_map:
            return self._made("ngrams.", lambda: NgramIndex(engram, self.config.vocab_size))
        assert self._canonical_ids is not None, "checked when the tokenizer was"
        index = NgramIndex(engram, self.config.vocab_size)
        index.token_map = torch.tensor(self._canonical_ids(self.config.vocab_size))
        return index

    def _sources(self, *prefixes: str) -> list[Source]:
        return [s for s in self.plan.sources if s.parameter.name.startswith(prefixes)]

    def _made(self, prefix: str, make: Callable[[], M]) -> M:
        with torch.device("meta"):
            module = make()
        fill(module, self._sources(prefix), prefix)
        return module.eval()
