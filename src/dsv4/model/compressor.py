"""Compressed entries out of token rows (report 2.3.1 and 2.3.2), and the indexer's keys.

Shapes: B batch, T new tokens, X hidden channels, D channels of an entry, N entries, m ratio.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dsv4 import ops
from dsv4.config import CSA, ModelConfig
from dsv4.model.parameters import Dense, Norm
from dsv4.model.rope import angles
from dsv4.model.state import CompressorState
from dsv4.numerics.policy import Numerics


class Compressor(nn.Module):
    """Pools every m tokens into one entry; with m = 4 neighbouring entries overlap."""

    def __init__(self, config: ModelConfig, ratio: int, width: int) -> None:
        super().__init__()
        row = 2 * width if ratio == CSA else width
        self.ratio, self.eps = ratio, config.rms_norm_eps
        self.ape = nn.Parameter(torch.empty(ratio, row))
        self.wkv = Dense(config.hidden_size, row)
        self.wgate = Dense(config.hidden_size, row)
        self.norm = Norm(width)

    def forward(
        self,
        x_BTX: Tensor,
        omega: Tensor,
        start: int,
        state: CompressorState | None,
        numerics: Numerics,
    ) -> Tensor:
        """The entries `[B, N, D]` of the blocks that the new tokens complete.

        Normed and rotated to the position of their block's first token, not yet quantised.
        Remembers the token rows in `state`.
        """
        m, overlaps = self.ratio, self.ratio == CSA
        values = ops.linear_f32(x_BTX, self.wkv.weight, numerics)
        gates = ops.linear_f32(x_BTX, self.wgate.weight, numerics)
        end = start + x_BTX.shape[1]
        block, last_block = start // m, end // m
        has_previous = overlaps and block > 0
        first_row = m * (block - 1 if has_previous else block)
        if state is not None:
            old_values = state.values.read(first_row, start)
            old_gates = state.gates.read(first_row, start)
            state.values.write(start, values)
            state.gates.write(start, gates)
            values = torch.cat((old_values, values), 1)
            gates = torch.cat((old_gates, gates), 1)
        if last_block == block:
            width = self.norm.weight.shape[0]
            return x_BTX.new_zeros(x_BTX.shape[0], 0, width, dtype=numerics.dtype)
        rows = m * last_block - first_row
        values, gates = values[:, :rows], gates[:, :rows]
        ape = self.ape.float()
        if overlaps:
            pooled = ops.pool_overlapping(values, gates, ape, has_previous=has_previous)
        else:
            pooled = ops.pool(values, gates, ape)
        entries = ops.rms_norm(pooled.to(numerics.dtype), self.norm.weight, self.eps, numerics)
        positions = m * torch.arange(block, last_block, device=x_BTX.device)
        return ops.rotate(entries, *angles(omega, positions))


def all_entries(new_BND: Tensor, block: int, state: CompressorState | None) -> Tensor:
    """Every entry so far: those in `state` below number `block`, then the new ones."""
    if state is None:
        return new_BND
    state.entries.write(block, new_BND)
    return state.entries.read(block + new_BND.shape[1])
