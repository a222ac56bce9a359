"""The language-model loss from the head's input, so that a backend need not keep all logits.

Shapes: N predicted tokens, D hidden channels, V vocabulary.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from dsv4.numerics.policy import Numerics
from dsv4.ops.reference.primitives import linear_f32


def head_loss(x_ND: Tensor, head_VD: Tensor, wanted_N: Tensor, numerics: Numerics) -> Tensor:
    """Summed cross-entropy (nats) of the tokens `wanted_N` under the logits `x W^T`."""
    return F.cross_entropy(linear_f32(x_ND, head_VD, numerics), wanted_N, reduction="sum")
