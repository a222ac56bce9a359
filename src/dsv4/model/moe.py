"""Mixture of experts (report 2.1): hash-routed first layers, then learned top-k; one shared.

Shapes: N tokens (batch and time flattened), D hidden channels, E experts, K experts per token.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from dsv4 import ops
from dsv4.config import ModelConfig
from dsv4.model.parameters import Linear
from dsv4.numerics.adapted import Factor
from dsv4.numerics.policy import FAST, Numerics
from dsv4.numerics.quantized import Weight


@dataclass(frozen=True, slots=True)
class Routing:
    """What one layer's router did: un-biased affinities `[N, E]`, chosen experts `[N, K]`."""

    scores_NE: Tensor
    experts_NK: Tensor


Matrices = tuple[Weight, Weight, Weight]


class ExpertSource(Protocol):
    """Routed experts that are not all in memory (`checkpoint.experts.ExpertStore`)."""

    def groups(self, layer: int, experts: Sequence[int]) -> list[list[int]]: ...
    def acquire(self, layer: int, experts: Sequence[int]) -> dict[int, Matrices]: ...
    def arrived(self, layer: int, experts: Iterable[int]) -> dict[int, Matrices]: ...
    def release(self, layer: int, experts: Sequence[int]) -> None: ...
    def prefetch(self, layer: int, experts: Sequence[int]) -> None: ...


class Expert(nn.Module):
    """Gate w1, up w3, down w2."""

    def __init__(self, hidden: int, width: int) -> None:
        super().__init__()
        self.w1 = Linear(hidden, width)
        self.w2 = Linear(width, hidden)
        self.w3 = Linear(hidden, width)

    def matrices(self) -> tuple[Factor, Factor, Factor]:
        """(w1, w3, w2)."""
        return self.w1.weight, self.w3.weight, self.w2.weight


class Gate(nn.Module):
    """Router weights; a hash layer looks experts up by token id, the others add a bias."""

    def __init__(self, config: ModelConfig, hashed: bool) -> None:
        super().__init__()
        experts, chosen = config.n_routed_experts, config.num_experts_per_tok
        self.experts_per_token = chosen
        self.weight = nn.Parameter(torch.empty(experts, config.hidden_size))
        self.bias: nn.Parameter | None = None
        self.tid2eid: Tensor | None
        if hashed:
            table = torch.zeros(config.vocab_size, chosen, dtype=torch.int64)
            self.register_buffer("tid2eid", table)
        else:
            self.bias = nn.Parameter(torch.zeros(experts), requires_grad=False)
            self.tid2eid = None

    def forward(
        self, x_ND: Tensor, ids_N: Tensor, numerics: Numerics, replay_NK: Tensor | None = None
    ) -> Routing:
        scores_NE = ops.affinities(x_ND, self.weight, numerics)
        if self.tid2eid is not None:
            return Routing(scores_NE, self.tid2eid[ids_N])
        assert self.bias is not None
        experts_NK = ops.top_experts(scores_NE, self.bias, self.experts_per_token)
        if replay_NK is not None:
            experts_NK = torch.where(replay_NK >= 0, replay_NK, experts_NK)
        return Routing(scores_NE, experts_NK)


class MoE(nn.Module):
    """Routed experts plus one shared expert."""

    def __init__(self, config: ModelConfig, hashed: bool) -> None:
        super().__init__()
        hidden, width = config.hidden_size, config.moe_intermediate_size
        self.scale, self.limit = config.routed_scaling_factor, config.swiglu_limit
        self.gate = Gate(config, hashed)
        self.experts = nn.ModuleList(Expert(hidden, width) for _ in range(config.n_routed_experts))
        self.shared_experts = Expert(hidden, width)
        self.source: ExpertSource | None = None
        self.layer = -1  # the source's number of this layer

    def forward(self, x_BTD: Tensor, ids_BT: Tensor, numerics: Numerics) -> tuple[Tensor, Routing]:
        """Output `[B, T, D]` and what the router chose."""
        fused = ops.fused("mixture", self, numerics)
        assert fused is not None or self.source is None, "streamed experts need native kernels"
        if fused is not None:
            scores_NE, experts_NK, weights_NK = fused.route(x_BTD, ids_BT)
            return fused(x_BTD, experts_NK, weights_NK), Routing(scores_NE, experts_NK)
        x_ND = x_BTD.flatten(0, 1)
        routing = self.gate(x_ND, ids_BT.flatten(), numerics)
        weights_NK = ops.routing_weights(routing.scores_NE, routing.experts_NK, self.scale)
        matrices = [expert.matrices() for expert in self.experts if isinstance(expert, Expert)]
        routed_ND = ops.mixture(
            x_ND, routing.experts_NK, weights_NK, matrices, self.limit, numerics
        )
        shared_ND = ops.swiglu(x_ND, *self.shared_experts.matrices(), self.limit, numerics)
        out_ND = (routed_ND + shared_ND.float()).to(numerics.dtype)
        return out_ND.view_as(x_BTD), routing

    def read_ahead(self, x_BTD: Tensor, ids_BT: Tensor) -> None:
        """Have the experts read that `x_BTD`, an estimate of the input to come, would choose."""
        fused = ops.fused("mixture", self, FAST)
        if fused is None or self.source is None:
            return
        _, experts_NK, _ = fused.route(x_BTD, ids_BT)
        # By place, then by token: a first choice is the surest. Of a random Flash model's guesses
        # 93, 84, 71, 64, 50 and 29 % were right, from the first place to the sixth.
        self.source.prefetch(self.layer, experts_NK.T.flatten().tolist())
