"""Full-vocabulary distillation: how far the student's distribution is from a teacher's.

    KL(p || q) = sum_v p(v) (log p(v) - log q(v)),   p the student, q the teacher

at every position, exactly over the vocabulary: the estimate from the drawn id alone has far more
variance (V4 report, section 4.3). Neither model's logits are ever whole: both are rebuilt from the
heads' inputs, a few positions at a time, and so is the gradient, which has a closed form,

    dKL / d logit(v) = p(v) (log p(v) - log q(v) - KL).

Shapes: M positions, D and E hidden channels of student and teacher, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

CHUNK = 512
"""Positions whose logits are in memory at once."""


def reverse_kl(
    student_MD: Tensor,
    head_VD: Tensor,
    teacher_ME: Tensor,
    teacher_head_VE: Tensor,
    *,
    chunk: int = CHUNK,
) -> Tensor:
    """KL(student || teacher) of every position `[M]`, float32, differentiable in the student.

    Inputs of the heads, and the heads; the teacher's are constants.
    """
    kl_M: Tensor = _ReverseKL.apply(student_MD, head_VD, teacher_ME, teacher_head_VE, chunk)
    return kl_M


class _ReverseKL(torch.autograd.Function):
    """Keeps inputs only; backward computes the logits of a chunk again."""

    @staticmethod
    def forward(
        ctx: Any,
        student_MD: Tensor,
        head_VD: Tensor,
        teacher_ME: Tensor,
        teacher_head_VE: Tensor,
        chunk: int,
    ) -> Tensor:
        ctx.save_for_backward(student_MD, head_VD, teacher_ME, teacher_head_VE)
        ctx.chunk = chunk
        parts = zip(student_MD.split(chunk), teacher_ME.split(chunk), strict=True)
        return torch.cat(
            [_divergence(x, head_VD, y, teacher_head_VE)[0] for x, y in parts]
            or [student_MD.new_zeros(0)]
        )

    @staticmethod
    def backward(ctx: Any, grad_M: Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        student_MD, head_VD, teacher_ME, teacher_head_VE = ctx.saved_tensors
        dx_MD = torch.empty_like(student_MD) if ctx.needs_input_grad[0] else None
        dw_VD = torch.zeros_like(head_VD) if ctx.needs_input_grad[1] else None
        for start in range(0, len(student_MD), ctx.chunk):
            part = slice(start, start + ctx.chunk)
            x = student_MD[part]
            kl, p, gap = _divergence(x, head_VD, teacher_ME[part], teacher_head_VE)
            dlogits = p * (gap - kl[:, None]) * grad_M[part, None]
            if dx_MD is not None:
                dx_MD[part] = dlogits @ head_VD.float()
            if dw_VD is not None:
                dw_VD += dlogits.T @ x.float()
        return dx_MD, dw_VD, None, None, None


def _divergence(
    x: Tensor, head_VD: Tensor, y: Tensor, teacher_head_VE: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """KL `[m]`, the student's probabilities `[m, V]`, and log p - log q `[m, V]`."""
    logp = F.log_softmax(F.linear(x.float(), head_VD.float()), -1)
    logq = F.log_softmax(F.linear(y.float(), teacher_head_VE.float()), -1)
    p, gap = logp.exp(), logp - logq
    return (p * gap).sum(-1), p, gap
