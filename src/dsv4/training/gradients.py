"""Gradients of a step before the optimizer sees them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from dsv4.parallel import add, own_part


def complete(trained: Mapping[str, Tensor]) -> None:
    """Give experts that no token chose a gradient of zeros.

    Some forms of the mixture leave out unused experts and some do not, and other processes may
    have used them; whether an expert's momentum goes on must not depend on that.
    """
    for name, parameter in trained.items():
        if parameter.requires_grad and parameter.grad is None and ".experts." in name:
            parameter.grad = torch.zeros_like(parameter)


def clip(trained: Mapping[str, Tensor], limit: float) -> float:
    """Scale all gradients down to a joint norm of `limit`; returns the norm they had."""
    parts = []
    for parameter in trained.values():
        if parameter.grad is None:
            continue
        if parameter.grad.is_sparse:
            parameter.grad = parameter.grad.coalesce()
            parts.append(parameter.grad.values())
        else:
            parts.append(own_part(parameter.grad))
    if not parts:
        return 0.0
    square = torch.nn.utils.get_total_norm(parts).double().square()
    norm = float(add(square).sqrt())
    if norm > limit:
        torch._foreach_mul_(parts, limit / norm)
    return norm
