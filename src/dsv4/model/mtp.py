"""Multi-token prediction (report 2.1): one more block that predicts the token after next."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dsv4 import ops
from dsv4.config import SWA, ModelConfig
from dsv4.model.block import Block, collapse_head
from dsv4.model.moe import Routing
from dsv4.model.parameters import Linear, Norm
from dsv4.model.state import LayerState
from dsv4.numerics.policy import Numerics


class PredictionBlock(Block):
    """Joins the streams at position t with the embedding of token t + 1.

    Shapes: B batch, T tokens, S residual streams, D hidden channels.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config, SWA, hashed=False)
        S, hidden = config.hc_mult, config.hidden_size
        self.e_proj = Linear(hidden, hidden)
        self.h_proj = Linear(hidden, hidden)
        self.enorm = Norm(hidden)
        self.hnorm = Norm(hidden)
        self.norm = Norm(hidden)
        self.hc_head_fn = nn.Parameter(torch.empty(S, S * hidden))
        self.hc_head_base = nn.Parameter(torch.empty(S))
        self.hc_head_scale = nn.Parameter(torch.empty(1))

    def predict(
        self,
        streams_BTSD: Tensor,
        embedded_BTD: Tensor,
        ids_BT: Tensor,
        start: int,
        state: LayerState | None,
        numerics: Numerics,
    ) -> tuple[Tensor, Tensor, Routing]:
        """(normed output `[B, T, D]`, its streams, routing); `ids_BT` are the next tokens."""
        eps = self.config.rms_norm_eps
        token = ops.rms_norm(embedded_BTD, self.enorm.weight, eps, numerics)
        token = _project(token, self.e_proj, numerics)
        hidden = ops.rms_norm(streams_BTSD, self.hnorm.weight, eps, numerics)
        hidden = _project(hidden, self.h_proj, numerics)
        streams, routing = self(hidden + token.unsqueeze(-2), ids_BT, start, state, numerics)
        return collapse_head(streams, self, numerics), streams, routing


def _project(x: Tensor, linear: Linear, numerics: Numerics) -> Tensor:
    fused = ops.fused("linear", linear, numerics)
    y: Tensor = fused(x) if fused is not None else ops.linear(x, linear.weight, numerics)
    return y
