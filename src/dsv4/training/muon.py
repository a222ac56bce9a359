"""Muon: momentum whose matrices are orthogonalised before the step (V4 report, section 2.4).

Per logically independent matrix W of n x m with gradient G:

    M <- mu M + G
    O = HNS(mu M + G) * sqrt(max(n, m)) * 0.18
    W <- W (1 - lr * wd) - lr * O

HNS, the hybrid Newton-Schulz iteration, brings all singular values to 1: an orthogonal n x m
matrix has an element RMS of 1 / sqrt(max(n, m)), so every update has RMS 0.18, about that of
AdamW, and both optimisers share one learning rate.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from dsv4 import parallel

UPDATE_RMS = 0.18
_FAST = (3.4445, -4.7750, 2.0315)  # grows small singular values quickly, ends in 0.7..1.2
_CLEAN = (2.0, -1.5, 0.5)  # converges to exactly 1 from there
_STEPS = (_FAST,) * 8 + (_CLEAN,) * 2
_TINY = 1e-30
_TOGETHER = 1 << 26
"""Elements that are orthogonalised together at most, unless a single matrix has more."""


def orthogonalise(x_KNM: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """The nearest (semi-)orthogonal matrices U V^T of a stack of K matrices N x M.

    dtype: what the products are computed in; bfloat16 leaves singular values within about 1 %.
    A matrix of zeros stays zero. The result has the dtype of the input.
    """
    tall = x_KNM.shape[1] > x_KNM.shape[2]
    x = x_KNM.mT if tall else x_KNM
    x = (x / x.norm(dim=(1, 2), keepdim=True).clamp_min(_TINY)).to(dtype)
    for a, b, c in _STEPS:
        gram = x @ x.mT
        poly = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.baddbmm(x, poly, x, beta=a)
    return (x.mT if tall else x).to(x_KNM.dtype)


class Muon:
    """Muon over named matrices.

    pieces: for every name, the row counts of the independent matrices stacked in that parameter
    (one entry: the parameter is one matrix). Parameters of one form are orthogonalised together.

    In a run of several processes every matrix has an owner, which orthogonalises it as a whole
    and hands out the result, so that the work is divided.
    """

    def __init__(
        self,
        parameters: Mapping[str, Tensor],
        pieces: Mapping[str, Sequence[int]],
        *,
        momentum: float = 0.95,
        weight_decay: float = 0.1,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self._parameters, self._pieces = dict(parameters), dict(pieces)
        self._momentum, self._decay, self._dtype = momentum, weight_decay, dtype
        self.momenta = {name: torch.zeros_like(p) for name, p in self._parameters.items()}

    @torch.no_grad()
    def step(self, lr: float) -> None:
        """Update every parameter that has a gradient, in place."""
        forms: dict[tuple[tuple[int, ...], ...], list[str]] = defaultdict(list)
        for name, parameter in self._parameters.items():
            if parameter.grad is not None:
                forms[tuple(parameter.shape), tuple(self._pieces[name])].append(name)
        for (shape, pieces), names in forms.items():
            together = max(1, _TOGETHER // math.prod(shape))
            for begin in range(0, len(names), together):
                self._update(names[begin : begin + together], pieces, lr)

    def _update(self, names: Sequence[str], pieces: Sequence[int], lr: float) -> None:
        """Update parameters of one form."""
        directions = self._directions(names)
        mine = parallel.wholes(directions)[parallel.rank() :: parallel.size()]
        changes = parallel.own_parts(self._orthogonalised(mine, pieces), directions)
        parameters = [parallel.own_part(self._parameters[name]) for name in names]
        torch._foreach_mul_(parameters, 1 - lr * self._decay)
        torch._foreach_add_(parameters, list(changes), alpha=-lr)

    def _directions(self, names: Sequence[str]) -> list[Tensor]:
        """Moves the momenta on and looks one step ahead of them."""
        gradients = [g for name in names if (g := self._parameters[name].grad) is not None]
        assert len(gradients) == len(names)
        momenta = [self.momenta[name] for name in names]
        torch._foreach_mul_(momenta, self._momentum)
        torch._foreach_add_(momenta, gradients)
        ahead = torch._foreach_mul(momenta, self._momentum)
        torch._foreach_add_(ahead, gradients)
        return list(ahead)

    def _orthogonalised(self, directions_KNM: Tensor, pieces: Sequence[int]) -> Tensor:
        """The updates that a stack of directions leads to, piece by piece."""
        if not len(directions_KNM):
            return directions_KNM
        parts = directions_KNM.split(list(pieces), dim=1)
        return torch.cat(
            [
                orthogonalise(part, self._dtype).mul_(UPDATE_RMS * max(part.shape[1:]) ** 0.5)
                for part in parts
            ],
            dim=1,
        )
