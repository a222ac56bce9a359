"""The loss in pieces: the logits of some tokens at a time, turned into gradients at once.

The logits of a batch take more memory than everything else together, and writing and reading them
several times more than half of the time. Here they live in a buffer that stays in the cache of a
processor; on a GPU a piece is as large as it takes to be busy.

Shapes: N predicted tokens, C tokens of a piece, D hidden channels, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dsv4.numerics.policy import Numerics
from dsv4.ops.compiled import compiling

_PIECE, _GPU_PIECE = 1024, 16384


def head_loss(x_ND: Tensor, head_VD: Tensor, wanted_N: Tensor, numerics: Numerics) -> Tensor:
    """See the reference."""
    loss: Tensor = _HeadLoss.apply(x_ND.to(numerics.dtype), head_VD, wanted_N)
    return loss


class _HeadLoss(torch.autograd.Function):
    """Gradients are those of the sum; the backward pass only scales them."""

    @staticmethod
    def forward(ctx: Any, x_ND: Tensor, head_VD: Tensor, wanted_N: Tensor) -> Tensor:
        head = head_VD.to(x_ND.dtype)
        total = torch.zeros((), device=x_ND.device)
        dx_ND = torch.empty_like(x_ND)
        dw_VD = torch.zeros(head_VD.shape, device=x_ND.device)
        needed = any(ctx.needs_input_grad)
        size = _GPU_PIECE if x_ND.is_cuda else _PIECE
        for start in range(0, x_ND.shape[0], size):
            x_CD = x_ND[start : start + size]
            wanted_C = wanted_N[start : start + size]
            logits_CV = x_CD @ head.T
            place_C = torch.arange(len(wanted_C), device=x_ND.device)
            reached_C = logits_CV[place_C, wanted_C].float()
            log_sum_C, slope_CV = compiling.compiled(_softmax, dynamic=True)(logits_CV)
            total += (log_sum_C - reached_C).sum()
            if needed:
                slope_CV[place_C, wanted_C] -= 1
                torch.mm(slope_CV, head, out=dx_ND[start : start + size])
                dw_VD += slope_CV.T @ x_CD
        ctx.save_for_backward(dx_ND, dw_VD)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:  # type: ignore[override]
        dx_ND, dw_VD = ctx.saved_tensors
        return dx_ND * grad.to(dx_ND.dtype), dw_VD * grad, None


def _softmax(logits_CV: Tensor) -> tuple[Tensor, Tensor]:
    """Logarithm of the summed exponentials [C], and the probabilities in the type of `logits`."""
    logits = logits_CV.float()
    peak = logits.amax(1, keepdim=True)
    p = torch.exp(logits - peak)
    total = p.sum(1, keepdim=True)
    return (total.log() + peak).squeeze(1), (p * total.reciprocal()).to(logits_CV.dtype)
