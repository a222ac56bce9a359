"""Sinkhorn-balanced momentum for tables (V4.1 report): one buffer instead of Adam's two.

For a table W of R x n with gradient G:

    M <- b M + (1 - b) G
    D = b M + (1 - b) G, its rows of norm <= tau * (mean row norm) set to zero
    U = D with rows and columns normalised to length 1 in turn, 11 times, rows first and last
    W <- W - 0.18 lr sqrt(n) U

so that an updated row moves by an RMS of 0.18 lr, as a matrix under Muon does.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from dsv4.training.muon import UPDATE_RMS

_MOMENTUM = 0.95
_QUIET = 1e-3
_ROUNDS = 11
_EPSILON = 1e-20


class BalancedMomentum:
    """The update over named tables, without decay."""

    def __init__(self, tables: Mapping[str, Tensor]) -> None:
        self._tables = dict(tables)
        self.momenta = {name: torch.zeros_like(p) for name, p in self._tables.items()}

    @torch.no_grad()
    def step(self, lr: float) -> None:
        """Update every table that has a gradient, in place."""
        for name, table in self._tables.items():
            if table.grad is None:
                continue
            gradient = table.grad.to_dense() if table.grad.is_sparse else table.grad
            moving = self.momenta[name].lerp_(gradient, 1 - _MOMENTUM)
            ahead = moving.lerp(gradient, 1 - _MOMENTUM)
            table.add_(balance(ahead), alpha=-lr * UPDATE_RMS * table.shape[1] ** 0.5)


def balance(direction_RW: Tensor) -> Tensor:
    """Rows and columns brought to equal lengths; quiet rows and zeros stay zero."""
    length_R1 = direction_RW.norm(dim=1, keepdim=True)
    balanced = direction_RW * (length_R1 > _QUIET * length_R1.mean())
    for turn in range(_ROUNDS):
        along = 1 - turn % 2
        balanced /= balanced.norm(dim=along, keepdim=True).clamp_min(_EPSILON)
    return balanced
