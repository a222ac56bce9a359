"""Engram: a memory that the last few tokens address (arXiv 2601.07372; V4.1's form without conv).

Before a layer's attention, X <- X + alpha (.) v: what the n-grams that end at a token have stored
in a table, let through as far as it fits each residual stream. Which rows are read follows from
token ids alone, so they can be fetched long before the layer needs them.

Shapes: B batch, T tokens, N longest n-gram, R rows read per token, W = R times channels of a row,
S residual streams, D hidden channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dsv4 import ops
from dsv4.config import ModelConfig
from dsv4.engram import CONV_KERNEL, EngramConfig
from dsv4.model.parameters import Linear, Norm, Table
from dsv4.model.state import Ring
from dsv4.numerics.policy import Numerics


class NgramIndex(nn.Module):
    """Which rows of every table the tokens read: canonical ids, hashed.

    `token_map` `[V]` int64 gives the canonical id of a token (`encoding.canonical`); it is part of
    the weights, because with another map every row would be another n-gram's.
    """

    token_map: Tensor

    def __init__(self, engram: EngramConfig, vocabulary: int) -> None:
        super().__init__()
        self.engram = engram
        self.register_buffer("token_map", torch.zeros(vocabulary, dtype=torch.int64))
        self._kept: tuple[torch.device, list[tuple[Tensor, Tensor, Tensor]]] | None = None

    def forward(self, ids_BT: Tensor, past: Ring | None, start: int) -> tuple[Tensor, ...]:
        """Rows `[B, T, R]` of each layer's table for tokens at positions `start ...`.

        `past` holds the tokens before (None: there are none); before the first token stands the
        padding token.
        """
        engram, B = self.engram, ids_BT.shape[0]
        back = engram.lookback
        before_BL = ids_BT.new_full((B, max(0, back - start)), engram.pad_id)
        parts = [before_BL, ids_BT]
        assert past is not None or not start, "tokens in the middle need those before them"
        if past is not None:
            known_BL1 = past.read(max(0, start - back), start)
            parts.insert(1, known_BL1.squeeze(-1).to(ids_BT.dtype))
        canonical_BL = self.token_map[torch.cat(parts, 1)]
        return tuple(
            ops.ngram_rows(canonical_BL, multipliers_N, primes_R) + offsets_R
            for multipliers_N, primes_R, offsets_R in self._constants(ids_BT.device)
        )

    def _constants(self, device: torch.device) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Multipliers, primes and offsets of each table."""
        if self._kept is None or self._kept[0] != device:
            engram = self.engram
            numbers = zip(engram.multipliers, engram.primes, engram.offsets, strict=True)
            made = [tuple(torch.tensor(row, device=device) for row in rows) for rows in numbers]
            self._kept = device, cast(list[tuple[Tensor, Tensor, Tensor]], made)
        return self._kept[1]


class Ticket(Protocol):
    """Rows of a table on their way."""

    def wait(self) -> Tensor:
        """What they hold, side by side: `[B, T, W]` float32. Once."""
        ...


class TableSource(Protocol):
    """Reads rows of tables that are not in memory, while other things are computed."""

    def submit(self, number: int, rows_BTR: Tensor) -> Ticket:
        """Begin to read these rows of table `number`."""
        ...

    def read_ahead(self, number: int, rows_BTR: Tensor) -> None:
        """Begin to read what is going to be submitted."""
        ...


class Engram(nn.Module):
    """The memory of one layer: its table, the projection to keys and value, the gate.

    `source`: where rows of the table come from; None: they are where its weight is.
    """

    def __init__(self, config: ModelConfig, engram: EngramConfig, number: int) -> None:
        super().__init__()
        S, hidden = config.hc_mult, config.hidden_size
        self.number = number
        self.source: TableSource | None = None
        self.streams, self.eps, self.lookback = S, config.rms_norm_eps, engram.lookback
        self.embed = Table(engram.rows[number], engram.head_dim)
        self.wkv = Linear(engram.width, (S + 1) * hidden)
        self.q_weight = nn.Parameter(torch.empty(S, hidden))
        self.k_weight = nn.Parameter(torch.empty(S, hidden))
        self.conv = ShortConv(config, engram) if engram.conv else None

    def submit(self, rows_BTR: Tensor, numerics: Numerics) -> Ticket:
        """Begin to read rows of the table."""
        if self.source is not None:
            return self.source.submit(self.number, rows_BTR)
        return _InPlace(self, rows_BTR, numerics)

    def forward(
        self,
        streams_BTSD: Tensor,
        ticket: Ticket,
        start: int,
        past: Ring | None,
        numerics: Numerics,
    ) -> Tensor:
        """The streams with what is remembered added; `past` is the convolution's state."""
        read_BTW = ticket.wait()
        fused = ops.fused("memory", self, numerics)
        if fused is not None:
            added_BTSD: Tensor = fused(streams_BTSD, read_BTW)
            return added_BTSD
        kv = ops.linear(read_BTW, self.wkv.weight, numerics).unflatten(-1, (self.streams + 1, -1))
        found_BTSD = ops.engram_gate(
            streams_BTSD,
            kv[..., :-1, :],
            kv[..., -1, :],
            self.q_weight,
            self.k_weight,
            self.eps,
            numerics,
        )
        if self.conv is not None:
            found_BTSD = found_BTSD + self.conv(found_BTSD, start, past, numerics)
        return streams_BTSD + found_BTSD


@dataclass(frozen=True, slots=True)
class _InPlace:
    """Rows of a table that is in memory: there is nothing to wait for."""

    engram: Engram
    rows_BTR: Tensor
    numerics: Numerics

    def wait(self) -> Tensor:
        fused = ops.fused("memory", self.engram, self.numerics)
        if fused is not None:
            read_BTW: Tensor = fused.gather(self.rows_BTR)
            return read_BTW
        read_BTRC: Tensor = self.engram.embed(self.rows_BTR, self.numerics.dtype)
        return read_BTRC.flatten(-2)


class ShortConv(nn.Module):
    """The paper's causal depthwise convolution over what was found, one filter per channel."""

    def __init__(self, config: ModelConfig, engram: EngramConfig) -> None:
        super().__init__()
        channels = config.hc_mult * config.hidden_size
        self.dilation, self.eps = engram.max_ngram_size, config.rms_norm_eps
        self.back = engram.convolved
        self.norm = Norm(channels)
        self.weight = nn.Parameter(torch.empty(channels, CONV_KERNEL))

    def forward(
        self, found_BTSD: Tensor, start: int, past: Ring | None, numerics: Numerics
    ) -> Tensor:
        """SiLU(conv(RMSNorm(u))) `[B, T, S, D]`; each stream has a norm of its own."""
        S, D = found_BTSD.shape[2:]
        unit = torch.ones_like(self.norm.weight[:D])
        normed = ops.rms_norm(found_BTSD, unit, self.eps, numerics) * self.norm.weight.view(S, D)
        normed_BTX = normed.flatten(-2)
        held = 0
        if past is not None:
            known_BLX = past.read(max(0, start - self.back), start)
            past.write(start, normed_BTX.float())
            held = known_BLX.shape[1]
            normed_BTX = torch.cat((known_BLX.to(normed_BTX.dtype), normed_BTX), 1)
        padded_BLX = F.pad(normed_BTX, (0, 0, self.back - held, 0))
        y_BTX = ops.engram_conv(padded_BLX, self.weight, self.dilation)
        return y_BTX.unflatten(-1, (S, D)).to(numerics.dtype)
