"""Hybrid attention (report 2.3): a sliding window plus compressed entries, one joint softmax.

Shapes: B batch, T new tokens, D hidden channels, Q query rank, H heads, C head channels,
N compressed entries, G output groups.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dsv4 import ops
from dsv4.config import CSA, ModelConfig
from dsv4.model.compressor import Compressor, all_entries
from dsv4.model.indexer import Indexer, Question
from dsv4.model.parameters import Linear, Norm
from dsv4.model.rope import CPU, angles, frequencies
from dsv4.model.state import LayerState
from dsv4.numerics.activation import fake_quant_fp8
from dsv4.numerics.policy import Numerics
from dsv4.numerics.rows import KV_BLOCK


@dataclass(frozen=True, slots=True)
class Reading:
    """What one CSA layer read in a forward pass without a state: the inputs of its attention, and
    the question its indexer was asked. `selected_BTK` is None if all entries were read."""

    q_BTHC: Tensor
    window_BTC: Tensor
    entries_BNC: Tensor
    selected_BTK: Tensor | None
    sink_H: Tensor
    window: int
    question: Question


class Attention(nn.Module):
    """One layer's attention; `ratio` 0 sees the window only, 4 is CSA, 128 is HCA.

    Training sets two fields of CSA layers. `dense`: read all compressed entries instead of the
    indexer's choice. `observer`: called with every `Reading`.
    """

    def __init__(self, config: ModelConfig, ratio: int) -> None:
        super().__init__()
        heads, channels = config.num_attention_heads, config.head_dim
        hidden, rank, groups = config.hidden_size, config.q_lora_rank, config.o_groups
        self.config, self.ratio = config, ratio
        self.attn_sink = nn.Parameter(torch.zeros(heads))
        self.wq_a = Linear(hidden, rank)
        self.q_norm = Norm(rank)
        self.wq_b = Linear(rank, heads * channels)
        self.wkv = Linear(hidden, channels)
        self.kv_norm = Norm(channels)
        self.wo_a = Linear(heads * channels // groups, groups * config.o_lora_rank)
        self.wo_b = Linear(groups * config.o_lora_rank, hidden)
        self.compressor = Compressor(config, ratio, channels) if ratio else None
        self.indexer = Indexer(config) if ratio == CSA else None
        self.dense = False
        self.observer: Callable[[Reading], None] | None = None

    def forward(
        self, x_BTD: Tensor, start: int, state: LayerState | None, numerics: Numerics
    ) -> Tensor:
        """Output `[B, T, D]` for tokens at positions `start ...`; extends `state`."""
        if state is not None:
            state.table.reserve(start + x_BTD.shape[1])
        fused = ops.fused("attention", self, numerics)
        if fused is not None and state is not None:
            y_BTD: Tensor = fused(x_BTD, start, state)
            return y_BTD
        config, ratio = self.config, self.ratio
        T = x_BTD.shape[1]
        omega = self.omega(x_BTD.device)
        cos, sin = angles(omega, torch.arange(start, start + T, device=x_BTD.device))
        per_head = (cos[:, None], sin[:, None])

        query_BTQ = ops.linear(x_BTD, self.wq_a.weight, numerics)
        query_BTQ = ops.rms_norm(query_BTQ, self.q_norm.weight, config.rms_norm_eps, numerics)
        q_BTHC = ops.linear(query_BTQ, self.wq_b.weight, numerics)
        q_BTHC = q_BTHC.unflatten(-1, (config.num_attention_heads, config.head_dim))
        q_BTHC = ops.rotate(ops.head_norm(q_BTHC, config.rms_norm_eps), *per_head)

        kv_BTC = ops.linear(x_BTD, self.wkv.weight, numerics)
        kv_BTC = ops.rms_norm(kv_BTC, self.kv_norm.weight, config.rms_norm_eps, numerics)
        kv_BTC = self._round(ops.rotate(kv_BTC, cos, sin), numerics)
        window_BSC = kv_BTC
        if state is not None:
            past = state.window.read(max(0, start - config.sliding_window + 1), start)
            window_BSC = torch.cat((past, kv_BTC), 1)
            state.window.write(start, kv_BTC)

        entries_BNC = selected_BTK = question = None
        if self.compressor is not None:
            part = state.compressor if state is not None else None
            new = self._round(self.compressor(x_BTD, omega, start, part, numerics), numerics)
            entries_BNC = all_entries(new, start // ratio, part)
        asked = state is not None or not self.dense or self.observer is not None
        if self.indexer is not None and asked:
            part = state.indexer if state is not None else None
            keys_BNI = self.indexer.keys(x_BTD, omega, start, part, numerics)
            selective = not self.dense and keys_BNI.shape[1] > self.indexer.topk
            if selective or self.observer is not None:
                question = self.indexer.ask(x_BTD, query_BTQ, per_head, keys_BNI, numerics)
            if selective and question is not None:
                selected_BTK = self.indexer.choose(question, start)
        if self.observer is not None and question is not None and entries_BNC is not None:
            self.observer(
                Reading(
                    q_BTHC,
                    window_BSC,
                    entries_BNC,
                    selected_BTK,
                    self.attn_sink,
                    config.sliding_window,
                    question,
                )
            )
        o_BTHC = ops.attend(
            q_BTHC,
            window_BSC,
            entries_BNC,
            selected_BTK,
            self.attn_sink,
            start=start,
            window=config.sliding_window,
            ratio=ratio,
            numerics=numerics,
        )
        # Keys double as values, so the sum still carries each source's absolute phase.
        o_BTHC = ops.rotate(o_BTHC, *per_head, inverse=True)
        o_BTGI = o_BTHC.flatten(-2).unflatten(-1, (config.o_groups, -1))
        return ops.linear(
            ops.grouped_linear(o_BTGI, self.wo_a.weight, numerics), self.wo_b.weight, numerics
        )

    def omega(self, device: torch.device = CPU) -> Tensor:
        """Angular frequencies of this layer's rotary table, `[R/2]`.

        A few dozen numbers: computing them keeps them out of the checkpoint.
        """
        return frequencies(self.config, self.ratio, device)

    def _round(self, kv: Tensor, numerics: Numerics) -> Tensor:
        """FP8 on the channels that are not rotated, as the serving cache stores them."""
        if not numerics.rounds_cache:
            return kv
        keep = self.config.head_dim - self.config.qk_rope_head_dim
        turned = kv[..., keep:]
        if numerics.packed:
            turned = turned.to(torch.bfloat16).to(kv.dtype)
        return torch.cat((fake_quant_fp8(kv[..., :keep], KV_BLOCK), turned), -1)
