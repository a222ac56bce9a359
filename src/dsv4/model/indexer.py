"""The lightning indexer (report 2.3.1, eqs. 13-17): which compressed entries a query reads."""

from __future__ import annotations

from torch import Tensor, nn

from dsv4 import ops
from dsv4.config import CSA, ModelConfig
from dsv4.model.compressor import Compressor, all_entries
from dsv4.model.parameters import Dense, Linear
from dsv4.model.state import CompressorState
from dsv4.numerics.activation import fake_quant_fp4
from dsv4.numerics.policy import Numerics


class Indexer(nn.Module):
    """Scores index keys with a few cheap heads and keeps the best `topk` of every query.

    Shapes: B batch, T new tokens, D hidden channels, Q query rank, H index heads, I index
    channels, K selected entries.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.heads, self.topk = config.index_n_heads, config.index_topk
        self.scale = (config.index_head_dim * config.index_n_heads) ** -0.5
        self.wq_b = Linear(config.q_lora_rank, config.index_n_heads * config.index_head_dim)
        self.weights_proj = Dense(config.hidden_size, config.index_n_heads)
        self.compressor = Compressor(config, CSA, config.index_head_dim)

    def forward(
        self,
        x_BTD: Tensor,
        query_BTQ: Tensor,
        rotation: tuple[Tensor, Tensor],
        omega: Tensor,
        start: int,
        state: CompressorState | None,
        numerics: Numerics,
    ) -> Tensor | None:
        """Entry numbers `[B, T, K]` (-1 = none), or None while every entry may be read."""
        new_keys = self._round(self.compressor(x_BTD, omega, start, state, numerics), numerics)
        keys_BNI = all_entries(new_keys, start // CSA, state)
        if keys_BNI.shape[1] <= self.topk:
            return None
        q_BTHI = ops.linear(query_BTQ, self.wq_b.weight, numerics).unflatten(-1, (self.heads, -1))
        q_BTHI = self._round(ops.rotate(q_BTHI, *rotation), numerics)
        weights_BTH = ops.linear(x_BTD, self.weights_proj.weight, numerics) * self.scale
        return ops.select(q_BTHI, weights_BTH, keys_BNI, start=start, ratio=CSA, k=self.topk)

    @staticmethod
    def _round(x: Tensor, numerics: Numerics) -> Tensor:
        """Hadamard rotation and FP4, as trained for; orthogonal, so `exact` leaves it out."""
        return fake_quant_fp4(ops.hadamard(x)) if numerics.rounds_cache else x
