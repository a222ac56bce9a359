"""The loss in pieces: the logits of a thousand tokens at a time, turned into gradients at once.

The logits of a batch take more memory than everything else together, and writing and reading them
several times more than half of the time. Here they live in a buffer that stays in the cache.

Shapes: N predicted tokens, C tokens of a piece, D hidden channels, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dsv4.numerics.policy import Numerics
from dsv4.ops.compiled import compiling

_PIECE = 1024


def head_loss(x_ND: Tensor, head_VD: Tensor, wanted_N: Tensor, numerics: Numerics) -> Tensor:
    """See the reference; products in bfloat16."""
    loss: Tensor = _HeadLoss.apply(x_ND, head_VD, wanted_N)
    return loss


class _HeadLoss(torch.autograd.Function):
    """Gradients are those of the sum; the backward pass only scales them."""

    @staticmethod
    def forward(ctx: Any, x_ND: Tensor, head_VD: Tensor, wanted_N: Tensor) -> Tensor:
        head = head_VD.to(torch.bfloat16)
        total = torch.zeros((), device=x_ND.device)
        dx_ND = torch.empty(x_ND.shape, dtype=torch.bfloat16, device=x_ND.device)
        dw_VD = torch.zeros(head_VD.shape, device=x_ND.device)
        needed = any(ctx.needs_input_grad)
        for start in range(0, x_ND.shape[0], _PIECE):
            x_CD = x_ND[start : start + _PIECE].to(torch.bfloat16)
            wanted_C = wanted_N[start : start + _PIECE]
            logits_CV = x_CD @ head.T
            loss, slope_CV = compiling.compiled(_loss_and_slope, dynamic=True)(logits_CV, wanted_C)
            total += loss
            if needed:
                torch.mm(slope_CV, head, out=dx_ND[start : start + _PIECE])
                dw_VD += slope_CV.T @ x_CD
        ctx.save_for_backward(dx_ND, dw_VD)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:  # type: ignore[override]
        dx_ND, dw_VD = ctx.saved_tensors
        return dx_ND * grad.to(dx_ND.dtype), dw_VD * grad, None


def _loss_and_slope(logits_CV: Tensor, wanted_C: Tensor) -> tuple[Tensor, Tensor]:
    """Summed cross-entropy, and its derivative by the logits in bfloat16."""
    logits = logits_CV.float()
    peak = logits.amax(1, keepdim=True)
    shifted = logits - peak
    p = torch.exp(shifted)
    total = p.sum(1, keepdim=True)
    loss = (total.log() - shifted.gather(1, wanted_C[:, None])).sum()
    hit = torch.arange(logits.shape[1], device=logits.device)[None] == wanted_C[:, None]
    return loss, (p / total - hit.float()).to(torch.bfloat16)
