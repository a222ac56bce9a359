"""The lightning indexer (report 2.3.1, eqs. 13-17): which compressed entries a query reads."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from dsv4 import ops
from dsv4.config import CSA, ModelConfig
from dsv4.model.compressor import Compressor, all_entries
from dsv4.model.parameters import Dense, Linear
from dsv4.model.state import CompressorState
from dsv4.numerics.activation import fake_quant_fp4
from dsv4.numerics.policy import Numerics


@dataclass(frozen=True, slots=True)
class Question:
    """What entries are scored by: entry n has `sum_h weights[h] * relu(q[h] . keys[n])`."""

    q_BTHI: Tensor
    weights_BTH: Tensor
    keys_BNI: Tensor


class Indexer(nn.Module):
    """Scores index keys with a few cheap heads and keeps the best `topk` of every query.

    Its inputs are cut from the graph: the language loss could not reach it anyway, through a
    choice, and the indexer's own loss (training/indexer.py) is not to move the model.

    Shapes: B batch, T new tokens, D hidden channels, Q query rank, H index heads, I index
    channels, N entries, K selected entries.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.heads, self.topk = config.index_n_heads, config.index_topk
        self.scale = (config.index_head_dim * config.index_n_heads) ** -0.5
        self.wq_b = Linear(config.q_lora_rank, config.index_n_heads * config.index_head_dim)
        self.weights_proj = Dense(config.hidden_size, config.index_n_heads)
        self.compressor = Compressor(config, CSA, config.index_head_dim)

    def keys(
        self,
        x_BTD: Tensor,
        omega: Tensor,
        start: int,
        state: CompressorState | None,
        numerics: Numerics,
    ) -> Tensor:
        """The key of every entry so far, `[B, N, I]`; extends `state` by the new tokens' keys."""
        new_keys = self.compressor(x_BTD.detach(), omega, start, state, numerics)
        return all_entries(self._round(new_keys, numerics), start // CSA, state)

    def ask(
        self,
        x_BTD: Tensor,
        query_BTQ: Tensor,
        rotation: tuple[Tensor, Tensor],
        keys_BNI: Tensor,
        numerics: Numerics,
    ) -> Question:
        """What the new tokens' scores of the entries follow from."""
        x_BTD, query_BTQ = x_BTD.detach(), query_BTQ.detach()
        q_BTHI = ops.linear(query_BTQ, self.wq_b.weight, numerics).unflatten(-1, (self.heads, -1))
        q_BTHI = self._round(ops.rotate(q_BTHI, *rotation), numerics)
        weights_BTH = ops.linear(x_BTD, self.weights_proj.weight, numerics) * self.scale
        return Question(q_BTHI, weights_BTH, keys_BNI)

    def choose(self, question: Question, start: int) -> Tensor:
        """The entries with the best scores `[B, T, K]`, -1 = none."""
        return ops.select(
            question.q_BTHI.detach(),
            question.weights_BTH.detach(),
            question.keys_BNI.detach(),
            start=start,
            ratio=CSA,
            k=self.topk,
        )

    @staticmethod
    def _round(x: Tensor, numerics: Numerics) -> Tensor:
        """Hadamard rotation and FP4, as trained for; orthogonal, so `exact` leaves it out."""
        return fake_quant_fp4(ops.hadamard(x)) if numerics.rounds_cache else x
