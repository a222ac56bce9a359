"""Pooling of token rows into compressed entries (report 2.3.1 and 2.3.2), in float32.

Shapes: B batch, L token rows, N entries, m ratio, D channels of an entry.
"""

from __future__ import annotations

import torch
from torch import Tensor


def pool(values_BLD: Tensor, gates_BLD: Tensor, ape_mD: Tensor) -> Tensor:
    """Non-overlapping pooling (HCA): `[B, N*m, D]` rows to `[B, N, D]` entries.

    Every channel has its own softmax over the m rows of its block.
    """
    m, D = ape_mD.shape
    blocks = (values_BLD.shape[0], -1, m, D)
    weights = torch.softmax(gates_BLD.view(blocks) + ape_mD, dim=2)
    return (weights * values_BLD.view(blocks)).sum(2)


def pool_overlapping(
    values_BLX: Tensor, gates_BLX: Tensor, ape_mX: Tensor, *, has_previous: bool
) -> Tensor:
    """Overlapping pooling (CSA): blocks of m rows of width X = 2D to `[B, N, D]` entries.

    The first D channels belong to the series that enters the next entry, the last D to the
    one that enters the block's own entry: entry i pools rows of block i-1 (first half) and of
    block i (second half). With `has_previous` the first block given only serves as block -1
    of the first entry; without it the first entry pools its own block alone.
    """
    m, X = ape_mX.shape
    D = X // 2
    blocks = (values_BLX.shape[0], -1, m, X)
    values = values_BLX.view(blocks)
    gates = gates_BLX.view(blocks) + ape_mX
    if has_previous:
        own_v, own_g = values[:, 1:, :, D:], gates[:, 1:, :, D:]
        before_v, before_g = values[:, :-1, :, :D], gates[:, :-1, :, :D]
    else:
        own_v, own_g = values[..., D:], gates[..., D:]
        shift = (0, 0, 0, 0, 1, 0)
        before_v = torch.nn.functional.pad(values[:, :-1, :, :D], shift)
        before_g = torch.nn.functional.pad(gates[:, :-1, :, :D], shift, value=float("-inf"))
    weights = torch.softmax(torch.cat((before_g, own_g), 2), dim=2)
    return (weights * torch.cat((before_v, own_v), 2)).sum(2)
