"""All experts of a layer from one buffer of rows sorted by expert.

Shapes: N tokens, K experts per token, E experts, D channels, F feed-forward width, P rows of the
sorted buffer, I inputs, O outputs.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dsv4.numerics.policy import Numerics
from dsv4.ops.compiled import compiling

_ROWS = 64
"""Expert segments are padded to multiples of it: few distinct GEMM shapes."""


def mixture(
    x_ND: Tensor,
    experts_NK: Tensor,
    weights_NK: Tensor,
    matrices: list[tuple[Tensor, Tensor, Tensor]],
    limit: float,
    numerics: Numerics,
) -> Tensor:
    """All routed experts from one buffer of rows sorted by expert; see the reference."""
    N, K = experts_NK.shape
    E = len(matrices)
    flat = experts_NK.flatten()
    order = flat.argsort(stable=True)
    count_E = torch.bincount(flat, minlength=E)
    room_E = -(-count_E // _ROWS) * _ROWS
    first_E = room_E.cumsum(0) - room_E
    number = torch.arange(N * K, device=flat.device)
    rank = number - (count_E.cumsum(0) - count_E)[flat[order]]
    place = torch.empty_like(order)
    place[order] = first_E[flat[order]] + rank
    rooms = room_E.tolist()
    source = torch.zeros(sum(rooms), dtype=torch.int64, device=flat.device)
    source[place] = number // K
    weight_P = torch.zeros(sum(rooms), device=flat.device).index_put((place,), weights_NK.flatten())
    up_EFI = torch.stack([torch.cat((w1, w3)) for w1, w3, _ in matrices]).to(torch.bfloat16)
    down_EDF = torch.stack([w2 for _, _, w2 in matrices]).to(torch.bfloat16)
    x_PD = x_ND.to(torch.bfloat16).index_select(0, source)
    both_P2F = _GroupedProduct.apply(x_PD, up_EFI, rooms)
    y_PD = _GroupedProduct.apply(
        compiling.compiled(_activate, dynamic=True)(both_P2F, weight_P, limit), down_EDF, rooms
    )
    return y_PD.index_select(0, place).view(N, K, -1).float().sum(1)


def swiglu(
    x_ND: Tensor,
    w1: Tensor,
    w3: Tensor,
    w2: Tensor,
    limit: float,
    numerics: Numerics,
    weight_N: Tensor | None = None,
) -> Tensor:
    """The gated feed-forward with both input projections in one product."""
    both = F.linear(x_ND.to(torch.bfloat16), torch.cat((w1, w3)).to(torch.bfloat16))
    weight = torch.ones(x_ND.shape[0], device=x_ND.device) if weight_N is None else weight_N
    return F.linear(
        compiling.compiled(_activate, dynamic=True)(both, weight, limit), w2.to(torch.bfloat16)
    )


def _activate(both: Tensor, weight: Tensor, limit: float) -> Tensor:
    gate, up = both.float().chunk(2, -1)
    hidden = F.silu(gate.clamp(max=limit)) * up.clamp(-limit, limit)
    return (hidden * weight[:, None]).to(torch.bfloat16)


class _GroupedProduct(torch.autograd.Function):
    """y[s] = x[s] W_e^T for the segment s of every expert e; segments partition the rows."""

    @staticmethod
    def forward(ctx: Any, x_PI: Tensor, w_EOI: Tensor, counts: list[int]) -> Tensor:
        ctx.save_for_backward(x_PI, w_EOI)
        ctx.counts = counts
        y_PO = x_PI.new_empty(x_PI.shape[0], w_EOI.shape[1])
        for x, w, y in zip(x_PI.split(counts), w_EOI, y_PO.split(counts), strict=True):
            if len(x):
                torch.mm(x, w.T, out=y)
        return y_PO

    @staticmethod
    def backward(ctx: Any, dy_PO: Tensor) -> tuple[Tensor, Tensor, None]:  # type: ignore[override]
        x_PI, w_EOI = ctx.saved_tensors
        dx_PI, dw_EOI = torch.empty_like(x_PI), torch.zeros_like(w_EOI)
        dy_PO = dy_PO.contiguous()
        parts = zip(
            x_PI.split(ctx.counts),
            w_EOI,
            dy_PO.split(ctx.counts),
            dx_PI.split(ctx.counts),
            dw_EOI,
            strict=True,
        )
        for x, w, dy, dx, dw in parts:
            if len(x):
                torch.mm(dy, w, out=dx)
                torch.mm(dy.T, x, out=dw)
        return dx_PI, dw_EOI, None
