"""One layer: attention and experts, each inside its own hyper-connection (report 2.2).

A layer with an Engram adds to the streams before both, so that it also moves their coefficients.

Shapes: B batch, T tokens, S residual streams, D hidden channels, M mixing coefficients.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dsv4 import ops
from dsv4.config import ModelConfig
from dsv4.model.attention import Attention
from dsv4.model.engram import Engram, Ticket
from dsv4.model.moe import MoE, Routing
from dsv4.model.parameters import Norm
from dsv4.model.state import LayerState
from dsv4.numerics.policy import FAST, Numerics


class Block(nn.Module):
    """A transformer layer over four residual streams.

    `recompute`: training keeps only what enters the layer and computes the rest again in the
    backward pass.
    """

    def __init__(
        self, config: ModelConfig, ratio: int, *, hashed: bool, engram: Engram | None = None
    ) -> None:
        super().__init__()
        S, hidden = config.hc_mult, config.hidden_size
        M = S * S + 2 * S
        self.config = config
        self.engram = engram
        self.recompute = False
        self.attn = Attention(config, ratio)
        self.ffn = MoE(config, hashed)
        self.attn_norm = Norm(hidden)
        self.ffn_norm = Norm(hidden)
        self.hc_attn_fn = nn.Parameter(torch.empty(M, S * hidden))
        self.hc_attn_base = nn.Parameter(torch.empty(M))
        self.hc_attn_scale = nn.Parameter(torch.empty(3))
        self.hc_ffn_fn = nn.Parameter(torch.empty(M, S * hidden))
        self.hc_ffn_base = nn.Parameter(torch.empty(M))
        self.hc_ffn_scale = nn.Parameter(torch.empty(3))

    def forward(
        self,
        streams_BTSD: Tensor,
        ids_BT: Tensor,
        start: int,
        state: LayerState | None,
        numerics: Numerics,
        ticket: Ticket | None = None,
    ) -> tuple[Tensor, Routing]:
        """Streams after this layer, and the router's choice; `ticket`: what its Engram reads."""
        inputs = (streams_BTSD, ids_BT, start, state, numerics, ticket)
        if not (self.recompute and torch.is_grad_enabled()):
            return self._compute(*inputs)
        asked = self.attn.observer is not None
        again: tuple[Tensor, Routing] = checkpoint(
            self._compute,
            *inputs,
            use_reentrant=False,
            preserve_rng_state=False,
            context_fn=lambda: (contextlib.nullcontext(), self._recomputing(asked)),
        )
        return again

    @contextlib.contextmanager
    def _recomputing(self, asked: bool) -> Iterator[None]:
        """Have attention ask its indexer where the forward pass did, whoever observes it now:
        both have to compute the same."""
        observer = self.attn.observer
        self.attn.observer = (lambda reading: None) if asked else None
        try:
            yield
        finally:
            self.attn.observer = observer

    def _compute(
        self,
        streams_BTSD: Tensor,
        ids_BT: Tensor,
        start: int,
        state: LayerState | None,
        numerics: Numerics,
        ticket: Ticket | None,
    ) -> tuple[Tensor, Routing]:
        if self.engram is not None:
            assert ticket is not None
            past = state.memory if state is not None else None
            streams_BTSD = self.engram(streams_BTSD, ticket, start, past, numerics)
        fused = ops.fused("connections", self, numerics) or (None, None)

        def attention(x_BTD: Tensor) -> Tensor:
            y_BTD: Tensor = self.attn(x_BTD, start, state, numerics)
            return y_BTD

        connection = (self.hc_attn_fn, self.hc_attn_base, self.hc_attn_scale)
        streams_BTSD = self._connect(
            streams_BTSD, connection, self.attn_norm, attention, numerics, fused[0]
        )

        routings: list[Routing] = []

        def experts(x_BTD: Tensor) -> Tensor:
            y_BTD, routing = self.ffn(x_BTD, ids_BT, numerics)
            routings.append(routing)
            return y_BTD

        connection = (self.hc_ffn_fn, self.hc_ffn_base, self.hc_ffn_scale)
        streams_BTSD = self._connect(
            streams_BTSD, connection, self.ffn_norm, experts, numerics, fused[1]
        )
        return streams_BTSD, routings[0]

    def read_ahead(self, streams_BTSD: Tensor, ids_BT: Tensor) -> None:
        """Have the experts read that this layer would choose if its attention added nothing."""
        fused = ops.fused("connections", self, FAST)
        if fused is not None:
            x_BTD, _ = fused[1].enter(streams_BTSD)
            self.ffn.read_ahead(x_BTD, ids_BT)

    def _connect(
        self,
        streams_BTSD: Tensor,
        connection: tuple[Tensor, Tensor, Tensor],
        norm: Norm,
        sublayer: Callable[[Tensor], Tensor],
        numerics: Numerics,
        fused: Any | None,
    ) -> Tensor:
        """Collapse the streams, run the sublayer, mix its output back in."""
        if fused is not None:
            x_BTD, mixing = fused.enter(streams_BTSD)
            mixed_BTSD: Tensor = fused.leave(sublayer(x_BTD), streams_BTSD, mixing)
            return mixed_BTSD
        config = self.config
        fn, base, scale = connection
        logits_BTM = ops.mixing_logits(streams_BTSD, fn, config.rms_norm_eps)
        pre_BTS, post_BTS, comb_BTSS = ops.coefficients(
            logits_BTM, scale, base, config.hc_mult, config.hc_sinkhorn_iters, config.hc_eps
        )
        x_BTD = ops.collapse(streams_BTSD, pre_BTS, numerics)
        x_BTD = ops.rms_norm(x_BTD, norm.weight, config.rms_norm_eps, numerics)
        return ops.expand(sublayer(x_BTD), streams_BTSD, post_BTS, comb_BTSS, numerics)


def collapse_head(streams_BTSD: Tensor, owner: Any, numerics: Numerics) -> Tensor:
    """The final collapse of the streams (no Sinkhorn, no expansion), normed: `[B, T, D]`.

    `owner` holds the weights, under the names the released checkpoint gives them.
    """
    fused = ops.fused("collapse", owner, numerics)
    if fused is not None:
        x_BTD: Tensor = fused(streams_BTSD)
        return x_BTD
    config = owner.config
    logits_BTS = ops.mixing_logits(streams_BTSD, owner.hc_head_fn, config.rms_norm_eps)
    pre_BTS = torch.sigmoid(logits_BTS * owner.hc_head_scale + owner.hc_head_base) + config.hc_eps
    x_BTD = ops.collapse(streams_BTSD, pre_BTS, numerics)
    return ops.rms_norm(x_BTD, owner.norm.weight, config.rms_norm_eps, numerics)
