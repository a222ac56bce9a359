"""A faster way to run the model's ops while training on a CPU: bfloat16 products, fused rest.

The reference ops spell out the mathematics in float32. Here the same functions are computed
with bfloat16 matrix products (float32 accumulation inside) and torch.compile-d elementwise
parts, attention in blocks of queries, and all experts of a layer from one sorted buffer. Only
what training needs is covered: no decoding state, no sparse selection, unquantised weights;
everything else falls through to the reference op.

It pays on machines whose processor multiplies bfloat16 natively; others should train in float32.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch._dynamo
import torch.nn.functional as F
from torch import Tensor

from dsv4 import ops
from dsv4.numerics.policy import Numerics
from dsv4.numerics.quantized import QuantizedTensor
from dsv4.ops.reference import attention, hyper, primitives

BACKEND = "training"
BF16 = Numerics("bf16-training", torch.bfloat16)
"""Activations between operators are bfloat16, nothing is quantised."""
_QUERY_BLOCK = 128
_ROWS = 64  # expert segments are padded to multiples of it: few distinct GEMM shapes


def linear(x: Tensor, weight: Tensor | QuantizedTensor, numerics: Numerics) -> Tensor:
    """`x W^T` from bfloat16 operands."""
    assert isinstance(weight, Tensor)
    return F.linear(x.to(torch.bfloat16), weight.to(torch.bfloat16)).to(numerics.dtype)


def linear_f32(x: Tensor, weight: Tensor) -> Tensor:
    """`x W^T` from bfloat16 operands, as float32."""
    return F.linear(x.to(torch.bfloat16), weight.to(torch.bfloat16)).float()


def grouped_linear(x_TGI: Tensor, weight: Tensor | QuantizedTensor, numerics: Numerics) -> Tensor:
    """Each group's own projection, from bfloat16 operands."""
    assert isinstance(weight, Tensor)
    parts = weight.to(torch.bfloat16).chunk(x_TGI.shape[-2])
    columns = x_TGI.to(torch.bfloat16).unbind(-2)
    outs = [F.linear(x, w) for x, w in zip(columns, parts, strict=True)]
    return torch.cat(outs, -1).to(numerics.dtype)


def attend(
    q_BTHC: Tensor,
    window_BSC: Tensor,
    entries_BNC: Tensor | None,
    selected_BTK: Tensor | None,
    sink_H: Tensor,
    *,
    start: int,
    window: int,
    ratio: int,
    numerics: Numerics,
) -> Tensor:
    """Joint attention over window and entries in blocks of queries; see the reference."""
    T = q_BTHC.shape[1]
    block = min(T, _QUERY_BLOCK)
    blocked = start == 0 and selected_BTK is None and T % block == 0 and window <= block
    if not blocked:
        return attention.attend(
            q_BTHC,
            window_BSC,
            entries_BNC,
            selected_BTK,
            sink_H,
            start=start,
            window=window,
            ratio=ratio,
            numerics=numerics,
        )
    if entries_BNC is None or entries_BNC.shape[1] == 0:
        return _compiled(_attend_window)(q_BTHC, window_BSC, sink_H, block, window)
    return _compiled(_attend_entries)(q_BTHC, window_BSC, entries_BNC, sink_H, block, window, ratio)


def _window_scores(q: Tensor, kv: Tensor, block: int, window: int) -> tuple[Tensor, Tensor]:
    """Masked scores [B, L, block, H, 2 block] of L query blocks, and the keys they are of."""
    B, T, H, C = q.shape
    L = T // block
    own = kv.view(B, L, block, C)
    before = F.pad(own[:, :-1], (0, 0, 0, 0, 1, 0))
    keys = torch.cat((before, own), 2)
    rows = q.reshape(B * L, block * H, C)
    scores = torch.bmm(rows, keys.view(B * L, 2 * block, C).mT)
    place = torch.arange(block, device=q.device)[:, None] + block
    other = torch.arange(2 * block, device=q.device)[None]
    near = (other <= place) & (other > place - window)
    inside = near & (torch.arange(L, device=q.device)[:, None, None] * block + other >= block)
    z = scores.view(B, L, block, H, 2 * block).float() * C**-0.5
    return z.masked_fill(~inside[None, :, :, None], float("-inf")), keys


def _attend_window(q: Tensor, kv: Tensor, sink: Tensor, block: int, window: int) -> Tensor:
    B, T, H, C = q.shape
    z, keys = _window_scores(q, kv, block, window)
    peak = torch.maximum(z.amax(-1, keepdim=True), sink[:, None]).detach()
    p = torch.exp(z - peak)
    p = p / (p.sum(-1, keepdim=True) + torch.exp(sink[:, None] - peak))
    L = T // block
    p = p.to(torch.bfloat16).view(B * L, block * H, 2 * block)
    return torch.bmm(p, keys.view(B * L, 2 * block, C)).view(B, T, H, C)


def _attend_entries(
    q: Tensor, kv: Tensor, entries: Tensor, sink: Tensor, block: int, window: int, ratio: int
) -> Tensor:
    B, T, H, C = q.shape
    L, N = T // block, entries.shape[1]
    z, keys = _window_scores(q, kv, block, window)
    far = torch.bmm(q.reshape(B, T * H, C), entries.mT).view(B, T, H, N).float() * C**-0.5
    visible = (torch.arange(T, device=q.device) + 1)[:, None] // ratio
    hidden = torch.arange(N, device=q.device)[None] >= visible
    far = far.masked_fill(hidden[None, :, None], float("-inf"))
    z = z.view(B, T, H, 2 * block)
    peak = torch.maximum(z.amax(-1, keepdim=True), far.amax(-1, keepdim=True))
    peak = torch.maximum(peak, sink[:, None]).detach()
    p, far = torch.exp(z - peak), torch.exp(far - peak)
    total = p.sum(-1, keepdim=True) + far.sum(-1, keepdim=True) + torch.exp(sink[:, None] - peak)
    p = (p / total).to(torch.bfloat16).view(B * L, block * H, 2 * block)
    far = (far / total).to(torch.bfloat16).view(B, T * H, N)
    near = torch.bmm(p, keys.view(B * L, 2 * block, C)).view(B, T, H, C)
    return near + torch.bmm(far, entries).view(B, T, H, C)


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


def _activate(both: Tensor, weight: Tensor, limit: float) -> Tensor:
    gate, up = both.float().chunk(2, -1)
    hidden = F.silu(gate.clamp(max=limit)) * up.clamp(-limit, limit)
    return (hidden * weight[:, None]).to(torch.bfloat16)


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
    rank = torch.arange(N * K) - (count_E.cumsum(0) - count_E)[flat[order]]
    place = torch.empty_like(order)
    place[order] = first_E[flat[order]] + rank
    rooms = room_E.tolist()
    source = torch.zeros(sum(rooms), dtype=torch.int64)
    source[place] = torch.arange(N * K) // K
    weight_P = torch.zeros(sum(rooms)).index_put((place,), weights_NK.flatten())
    up_EFI = torch.stack([torch.cat((w1, w3)) for w1, w3, _ in matrices]).to(torch.bfloat16)
    down_EDF = torch.stack([w2 for _, _, w2 in matrices]).to(torch.bfloat16)
    x_PD = x_ND.to(torch.bfloat16).index_select(0, source)
    both_P2F = _GroupedProduct.apply(x_PD, up_EFI, rooms)
    y_PD = _GroupedProduct.apply(
        _compiled(_activate, dynamic=True)(both_P2F, weight_P, limit), down_EDF, rooms
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
    weight = torch.ones(x_ND.shape[0]) if weight_N is None else weight_N
    return F.linear(_compiled(_activate, dynamic=True)(both, weight, limit), w2.to(torch.bfloat16))


class _Sinkhorn(torch.autograd.Function):
    """Alternate normalisation of m [S, S, N], columns first and last, with its exact gradient.

    With N innermost every step is a few vector operations over the tokens.
    """

    @staticmethod
    def forward(ctx: Any, m_SSN: Tensor, rounds: int, eps: float) -> Tensor:
        saved = []
        for step in range(2 * rounds - 1):
            total = m_SSN.sum(step % 2, keepdim=True).add_(eps).reciprocal_()
            m_SSN = m_SSN * total
            saved += [m_SSN, total]
        ctx.save_for_backward(*saved)
        return m_SSN

    @staticmethod
    def backward(ctx: Any, grad_SSN: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        saved = ctx.saved_tensors
        for step in reversed(range(len(saved) // 2)):
            after, total = saved[2 * step], saved[2 * step + 1]
            inner = (grad_SSN * after).sum(step % 2, keepdim=True)
            grad_SSN = (grad_SSN - inner).mul_(total)
        return grad_SSN, None, None


def coefficients(
    logits_M: Tensor, scale_3: Tensor, base_M: Tensor, streams: int, iterations: int, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """mHC coefficients; see the reference."""
    S, lead = streams, logits_M.shape[:-1]
    raw_MN = logits_M.reshape(-1, logits_M.shape[-1]).T.contiguous()
    scale_M1 = torch.cat((scale_3[:1].expand(S), scale_3[1:2].expand(S), scale_3[2:].expand(S * S)))
    mixed_MN = raw_MN * scale_M1[:, None] + base_M[:, None]
    pre, post, comb = mixed_MN.split((S, S, S * S))
    comb_SSN = torch.softmax(comb.view(S, S, -1), 1) + eps
    comb_SSN = _Sinkhorn.apply(comb_SSN, iterations, eps)
    comb_NSS = comb_SSN.permute(2, 0, 1).contiguous()
    pre, post = torch.sigmoid(pre) + eps, 2 * torch.sigmoid(post)
    return pre.T.reshape(*lead, S), post.T.reshape(*lead, S), comb_NSS.view(*lead, S, S)


def rms_norm(x: Tensor, weight: Tensor, eps: float, numerics: Numerics) -> Tensor:
    """See the reference."""
    rows = _compiled(primitives.rms_norm)(x.flatten(0, -2), weight, eps, numerics)
    return rows.view(x.shape)


def head_norm(q: Tensor, eps: float) -> Tensor:
    """See the reference."""
    rows: Tensor = _compiled(primitives.head_norm)(q.flatten(0, -2), eps)
    return rows.view(q.shape)


def rotate(x: Tensor, cos: Tensor, sin: Tensor, *, inverse: bool = False) -> Tensor:
    """See the reference; x is [B, T, C] or [B, T, H, C] and one angle row belongs to each T."""
    if x.numel() == 0:
        return x
    wide = (x.shape[0], *cos.shape)
    rows_cos, rows_sin = (t.expand(wide).flatten(0, 1) for t in (cos, sin))
    turned = _compiled(primitives.rotate)(x.flatten(0, 1), rows_cos, rows_sin, inverse=inverse)
    return turned.view(x.shape)


def _pool(values_Nmd: Tensor, gates_Nmd: Tensor) -> Tensor:
    return (torch.softmax(gates_Nmd, 1) * values_Nmd).sum(1)


def pool(values_BLD: Tensor, gates_BLD: Tensor, ape_mD: Tensor) -> Tensor:
    """See the reference."""
    m, D = ape_mD.shape
    gates = gates_BLD.reshape(-1, m, D) + ape_mD
    pooled = _compiled(_pool)(values_BLD.reshape(-1, m, D), gates)
    return pooled.view(len(values_BLD), -1, D)


def pool_overlapping(
    values_BLX: Tensor, gates_BLX: Tensor, ape_mX: Tensor, *, has_previous: bool
) -> Tensor:
    """See the reference; whole sequences only."""
    assert not has_previous
    m, D = ape_mX.shape[0], ape_mX.shape[1] // 2
    blocks = (len(values_BLX), -1, m, 2 * D)
    values, gates = values_BLX.view(blocks), gates_BLX.view(blocks) + ape_mX
    shift = (0, 0, 0, 0, 1, 0)
    before_v = F.pad(values[:, :-1, :, :D], shift)
    before_g = F.pad(gates[:, :-1, :, :D], shift, value=float("-inf"))
    both_v = torch.cat((before_v, values[..., D:]), 2).flatten(0, 1)
    both_g = torch.cat((before_g, gates[..., D:]), 2).flatten(0, 1)
    return _compiled(_pool)(both_v, both_g).view(len(values_BLX), -1, D)


def mixing_logits(streams_SD: Tensor, fn_MX: Tensor, eps: float) -> Tensor:
    """See the reference."""
    lead = streams_SD.shape[:-2]
    rows = _compiled(hyper.mixing_logits)(streams_SD.flatten(0, -3), fn_MX, eps)
    return rows.view(*lead, -1)


def collapse(streams_SD: Tensor, pre_S: Tensor, numerics: Numerics) -> Tensor:
    """See the reference."""
    lead = streams_SD.shape[:-2]
    rows = _compiled(hyper.collapse)(streams_SD.flatten(0, -3), pre_S.flatten(0, -2), numerics)
    return rows.view(*lead, -1)


def _expand(y: Tensor, streams: Tensor, post: Tensor, comb: Tensor) -> Tensor:
    old = streams.float()
    mixed = [
        sum(
            (comb[:, a, b, None] * old[:, a] for a in range(1, old.shape[1])),
            comb[:, 0, b, None] * old[:, 0],
        )
        for b in range(old.shape[1])
    ]
    return (post.unsqueeze(-1) * y.float().unsqueeze(-2) + torch.stack(mixed, 1)).to(y.dtype)


def expand(
    y_D: Tensor, streams_SD: Tensor, post_S: Tensor, comb_SS: Tensor, numerics: Numerics
) -> Tensor:
    """See the reference; the 4 x 4 mixing is spelled out, a batched product would be slower."""
    rows = _compiled(_expand)(
        y_D.flatten(0, -2).to(numerics.dtype),
        streams_SD.flatten(0, -3),
        post_S.flatten(0, -2),
        comb_SS.flatten(0, -3),
    )
    return rows.view(streams_SD.shape)


@functools.cache
def _compiled(function: Callable[..., Any], dynamic: bool = False) -> Callable[..., Any]:
    """The function compiled, by default anew for each of the few shapes of a run.

    Rows times positions of a batch are constant, so ops on flattened rows see one shape.
    """
    torch._dynamo.config.recompile_limit = 64
    return torch.compile(function, dynamic=dynamic)


def _register() -> None:
    """Give every op a `training` implementation, once."""
    own: tuple[Callable[..., Any], ...] = (
        linear,
        linear_f32,
        grouped_linear,
        attend,
        mixture,
        swiglu,
        coefficients,
        rms_norm,
        head_norm,
        rotate,
        pool,
        pool_overlapping,
        mixing_logits,
        collapse,
        expand,
    )
    as_before = ("hadamard", "select", "affinities", "top_experts", "routing_weights")
    for function in own:
        getattr(ops, function.__name__).implementations[BACKEND] = function
    for name in as_before:
        op = getattr(ops, name)
        op.implementations[BACKEND] = op.implementations["reference"]


@contextlib.contextmanager
def fast_training() -> Iterator[Numerics]:
    """Bind all ops to their training form inside a `with` block; gives the policy to run with."""
    if BACKEND not in ops.linear.implementations:
        _register()
    with ops.use(BACKEND):
        yield BF16
