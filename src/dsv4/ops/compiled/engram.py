"""Engram's gate, compiled: one pass over keys and streams.

Shapes: as in the reference.
"""

from __future__ import annotations

from torch import Tensor

from dsv4.numerics.policy import Numerics
from dsv4.ops.compiled import compiling
from dsv4.ops.reference import engram


def engram_gate(
    streams_BTSD: Tensor,
    keys_BTSD: Tensor,
    value_BTD: Tensor,
    q_weight_SD: Tensor,
    k_weight_SD: Tensor,
    eps: float,
    numerics: Numerics,
) -> Tensor:
    """See the reference."""
    rows = compiling.compiled(engram.engram_gate)(
        streams_BTSD.flatten(0, 1),
        keys_BTSD.flatten(0, 1),
        value_BTD.flatten(0, 1),
        q_weight_SD,
        k_weight_SD,
        eps,
        numerics,
    )
    return rows.view(streams_BTSD.shape)
