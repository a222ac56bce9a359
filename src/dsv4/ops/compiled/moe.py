"""All experts of a layer from one buffer of rows sorted by expert.

Shapes: N tokens, K experts per token, E experts, D channels, F feed-forward width, P rows of the
sorted buffer, I inputs, O outputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dsv4.numerics.adapted import Factor
from dsv4.numerics.policy import Numerics
from dsv4.ops.compiled import compiling
from dsv4.ops.reference import moe

_ROWS = 64
"""Expert segments are padded to multiples of it: few distinct GEMM shapes."""


def mixture(
    x_ND: Tensor,
    experts_NK: Tensor,
    weights_NK: Tensor,
    matrices: Sequence[tuple[Factor, Factor, Factor]],
    limit: float,
    numerics: Numerics,
) -> Tensor:
    """All routed experts; see the reference, which is faster on a CPU in float32 (7,680 tokens of
    nano, forward and back: 0.44 s, sorted 0.64 to 0.85)."""
    kept = any(not isinstance(matrix, Tensor) for triple in matrices for matrix in triple)
    if kept or (numerics.dtype == torch.float32 and not x_ND.is_cuda):
        return moe.mixture(x_ND, experts_NK, weights_NK, matrices, limit, numerics)
    return sorted_mixture(x_ND, experts_NK, weights_NK, matrices, limit, numerics)


def sorted_mixture(
    x_ND: Tensor,
    experts_NK: Tensor,
    weights_NK: Tensor,
    matrices: Sequence[tuple[Any, Any, Any]],
    limit: float,
    numerics: Numerics,
) -> Tensor:
    """All routed experts from one buffer of rows sorted by expert."""
    N, K = experts_NK.shape
    E = len(matrices)
    flat = experts_NK.flatten()
    order = flat.argsort(stable=True)
    count_E = torch.zeros(E, dtype=torch.int64, device=flat.device)
    count_E.scatter_add_(0, flat, torch.ones_like(flat))
    room_E = -(-count_E // _ROWS) * _ROWS
    P = _rows(room_E, N * K)
    end_E = room_E.cumsum(0)
    first_E = end_E - room_E
    end_E[-1] = P  # the last expert computes the room that nobody needs
    number = torch.arange(N * K, device=flat.device)
    place = torch.empty_like(order)
    place[order] = first_E[flat[order]] + number - (count_E.cumsum(0) - count_E)[flat[order]]
    source = torch.zeros(P, dtype=torch.int64, device=flat.device)
    source[place] = number // K
    weight_P = torch.zeros(P, device=flat.device).index_put((place,), weights_NK.flatten())
    dtype = numerics.dtype
    up_EFI = torch.stack([torch.cat((w1, w3)) for w1, w3, _ in matrices]).to(dtype)
    down_EDF = torch.stack([w2 for _, _, w2 in matrices]).to(dtype)
    x_PD = _Spread.apply(x_ND.to(dtype), source, place)
    end_E = end_E.to(torch.int32)
    both_P2F = _GroupedProduct.apply(x_PD, up_EFI, end_E)
    hidden_PF = compiling.compiled(_activate, dynamic=True)(both_P2F, weight_P, limit)
    y_PD = _GroupedProduct.apply(hidden_PF, down_EDF, end_E)
    return _Collected.apply(y_PD, place).view(N, K, -1).float().sum(1)


def _rows(room_E: Tensor, chosen: int) -> int:
    """Rows of the sorted buffer: all rooms of the experts. A GPU would have to be waited for if it
    were asked; there the buffer is as large as they can get."""
    return chosen + len(room_E) * _ROWS if room_E.is_cuda else int(room_E.sum())


def swiglu(
    x_ND: Tensor,
    w1: Factor,
    w3: Factor,
    w2: Factor,
    limit: float,
    numerics: Numerics,
    weight_N: Tensor | None = None,
) -> Tensor:
    """The gated feed-forward with both input projections in one product."""
    if not (isinstance(w1, Tensor) and isinstance(w3, Tensor) and isinstance(w2, Tensor)):
        return moe.swiglu(x_ND, w1, w3, w2, limit, numerics, weight_N)
    dtype = numerics.dtype
    both = F.linear(x_ND.to(dtype), torch.cat((w1, w3)).to(dtype))
    weight = torch.ones(x_ND.shape[0], device=x_ND.device) if weight_N is None else weight_N
    hidden = compiling.compiled(_activate, dynamic=True)(both, weight, limit)
    return F.linear(hidden, w2.to(dtype))


def _activate(both: Tensor, weight: Tensor, limit: float) -> Tensor:
    gate, up = both.float().chunk(2, -1)
    hidden = F.silu(gate.clamp(max=limit)) * up.clamp(-limit, limit)
    return (hidden * weight[:, None]).to(both.dtype)


class _Spread(torch.autograd.Function):
    """x[source]: a token's row at every place where an expert reads it; others get no gradient."""

    @staticmethod
    def forward(ctx: Any, x_ND: Tensor, source_P: Tensor, place_X: Tensor) -> Tensor:
        ctx.save_for_backward(place_X)
        ctx.tokens = len(x_ND)
        return x_ND.index_select(0, source_P)

    @staticmethod
    def backward(ctx: Any, grad_PD: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        (place_X,) = ctx.saved_tensors
        rows = grad_PD.index_select(0, place_X).view(ctx.tokens, -1, grad_PD.shape[1])
        return rows.sum(1, dtype=torch.float32).to(grad_PD.dtype), None, None


class _Collected(torch.autograd.Function):
    """y[place], where no place comes twice."""

    @staticmethod
    def forward(ctx: Any, y_PD: Tensor, place_X: Tensor) -> Tensor:
        ctx.save_for_backward(place_X)
        ctx.rows = len(y_PD)
        return y_PD.index_select(0, place_X)

    @staticmethod
    def backward(ctx: Any, grad_XD: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        (place_X,) = ctx.saved_tensors
        grad_PD = grad_XD.new_zeros(ctx.rows, grad_XD.shape[1])
        return grad_PD.index_copy_(0, place_X, grad_XD), None


class _GroupedProduct(torch.autograd.Function):
    """y[s] = x[s] W_e^T for the segment s of every expert e; segment e ends before row end[e]."""

    @staticmethod
    def forward(ctx: Any, x_PI: Tensor, w_EOI: Tensor, end_E: Tensor) -> Tensor:
        ctx.save_for_backward(x_PI, w_EOI, end_E)
        return F.grouped_mm(x_PI, w_EOI.mT, offs=end_E)

    @staticmethod
    def backward(ctx: Any, dy_PO: Tensor) -> tuple[Tensor, Tensor, None]:  # type: ignore[override]
        x_PI, w_EOI, end_E = ctx.saved_tensors
        dy_PO = dy_PO.contiguous()
        dx_PI = F.grouped_mm(dy_PO, w_EOI, offs=end_E)
        return dx_PI, F.grouped_mm(dy_PO.mT, x_PI, offs=end_E), None
