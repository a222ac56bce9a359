"""The two rotary tables (report 2.3.3): plain for window-only layers, YaRN for the others.

One layer uses one table for everything it rotates: queries, window keys, compressed keys,
index vectors and the output's de-rotation.
"""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

from dsv4.config import ModelConfig

CPU = torch.device("cpu")


@functools.lru_cache(maxsize=256)
def frequencies(config: ModelConfig, ratio: int, device: torch.device = CPU) -> Tensor:
    """Angular frequencies `[R/2]` (radians per position, float32) of a layer with `ratio`.

    Kept, and not to be changed in place: a GPU would be waited for whenever they are copied to it.
    Layers that compress use the larger base and YaRN at every length; no magnitude scaling.
    """
    R = config.qk_rope_head_dim
    base = config.compress_rope_theta if ratio else config.rope_theta
    omega = 1.0 / base ** (torch.arange(0, R, 2, dtype=torch.float32) / R)
    if not ratio:
        return omega.to(device)
    yarn = config.rope_scaling

    def turns_at(rotations: float) -> float:
        length = yarn.original_max_position_embeddings
        return R * math.log(length / (rotations * 2 * math.pi)) / (2 * math.log(base))

    low = max(math.floor(turns_at(yarn.beta_fast)), 0)
    high = min(math.ceil(turns_at(yarn.beta_slow)), R - 1)
    ramp = (torch.arange(R // 2, dtype=torch.float32) - low) / max(high - low, 1e-3)
    slow = ramp.clamp(0, 1)
    return (omega * (1 - slow) + omega / yarn.factor * slow).to(device)


def angles(omega: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines and sines `[T, R/2]` of float32 angles, as the released tables hold them."""
    phi = torch.outer(positions.float(), omega)
    return phi.cos(), phi.sin()
