"""Projections from operands of the policy's type; norms, rotations and pooling compiled.

Shapes: as in the reference.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from dsv4.numerics.adapted import Factor
from dsv4.numerics.policy import Numerics
from dsv4.ops.compiled import compiling
from dsv4.ops.reference import primitives


def linear(x: Tensor, weight: Factor, numerics: Numerics) -> Tensor:
    """`x W^T`; of weights that are stored quantised, such as a teacher's, as in the reference."""
    if not isinstance(weight, Tensor):
        return primitives.linear(x, weight, numerics)
    return F.linear(x.to(numerics.dtype), weight.to(numerics.dtype))


def linear_f32(x: Tensor, weight: Tensor, numerics: Numerics) -> Tensor:
    """`x W^T`, as float32."""
    return F.linear(x.to(numerics.dtype), weight.to(numerics.dtype)).float()


def grouped_linear(x_TGI: Tensor, weight: Factor, numerics: Numerics) -> Tensor:
    """Each group's own projection."""
    if not isinstance(weight, Tensor):
        return primitives.grouped_linear(x_TGI, weight, numerics)
    parts = weight.to(numerics.dtype).chunk(x_TGI.shape[-2])
    columns = x_TGI.to(numerics.dtype).unbind(-2)
    outs = [F.linear(x, w) for x, w in zip(columns, parts, strict=True)]
    return torch.cat(outs, -1)


def rms_norm(x: Tensor, weight: Tensor, eps: float, numerics: Numerics) -> Tensor:
    """See the reference."""
    rows = compiling.compiled(primitives.rms_norm)(x.flatten(0, -2), weight, eps, numerics)
    return rows.view(x.shape)


def head_norm(q: Tensor, eps: float) -> Tensor:
    """See the reference."""
    rows: Tensor = compiling.compiled(primitives.head_norm)(q.flatten(0, -2), eps)
    return rows.view(q.shape)


def rotate(x: Tensor, cos: Tensor, sin: Tensor, *, inverse: bool = False) -> Tensor:
    """See the reference; x is [B, T, C] or [B, T, H, C] and one angle row belongs to each T."""
    if x.numel() == 0:
        return x
    wide = (x.shape[0], *cos.shape)
    rows_cos, rows_sin = (t.expand(wide).flatten(0, 1) for t in (cos, sin))
    turned = compiling.compiled(primitives.rotate)(
        x.flatten(0, 1), rows_cos, rows_sin, inverse=inverse
    )
    return turned.view(x.shape)


def pool(values_BLD: Tensor, gates_BLD: Tensor, ape_mD: Tensor) -> Tensor:
    """See the reference."""
    m, D = ape_mD.shape
    gates = gates_BLD.reshape(-1, m, D) + ape_mD
    pooled = compiling.compiled(_pool)(values_BLD.reshape(-1, m, D), gates)
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
    return compiling.compiled(_pool)(both_v, both_g).view(len(values_BLX), -1, D)


def _pool(values_Nmd: Tensor, gates_Nmd: Tensor) -> Tensor:
    return (torch.softmax(gates_Nmd, 1) * values_Nmd).sum(1)
