"""AdamW with V4's constants, and its form for tables of which a step touches few rows.

Dimensions: R rows of a table, W row width, N touched rows.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from dsv4.parallel import own_part

BETAS = (0.9, 0.95)
EPSILON = 1e-20  # needs float32 state


class AdamW:
    """AdamW over named tensors. A tensor without a gradient in a step is as if the step did not
    exist for it: its moments, its count of steps and its values stay."""

    def __init__(
        self,
        parameters: Mapping[str, Tensor],
        decay: Mapping[str, float],
        *,
        eps: float = EPSILON,
    ) -> None:
        self._parameters, self._decay, self._eps = dict(parameters), dict(decay), eps
        self.counts = torch.zeros(len(self._parameters), dtype=torch.int64)
        """Steps of every tensor so far, in the order of `parameters`."""
        self.first = {name: torch.zeros_like(p) for name, p in self._parameters.items()}
        self.second = {name: torch.zeros_like(p) for name, p in self._parameters.items()}

    @torch.no_grad()
    def step(self, lr: float) -> None:
        """Update every tensor that has a gradient, in place."""
        fast, slow = BETAS
        for place, (name, parameter) in enumerate(self._parameters.items()):
            if parameter.grad is None:
                continue
            self.counts[place] += 1
            count = int(self.counts[place])
            values, gradient = own_part(parameter), own_part(parameter.grad)
            first = own_part(self.first[name]).lerp_(gradient, 1 - fast)
            second = own_part(self.second[name]).mul_(slow)
            second.addcmul_(gradient, gradient, value=1 - slow)
            scale = (second / (1 - slow**count)).sqrt_().add_(self._eps)
            values.mul_(1 - lr * self._decay[name])
            values.addcdiv_(first, scale, value=-lr / (1 - fast**count))


class RowAdam:
    """Adam without decay over tables `[R, W]`, row by row.

    A row with no gradient in a step is left alone, moments included, and every row has its own
    count for the bias correction: what happens to a row is what dense Adam would do to it, given
    only the steps that touched it. The work of a step is proportional to the rows it touched.

    A gradient may be sparse (what `embedding(..., sparse=True)` gives) or dense; rows of zeros
    count as untouched in both.
    """

    def __init__(self, tables: Mapping[str, Tensor]) -> None:
        self._tables = dict(tables)
        self.first = {name: torch.zeros_like(p) for name, p in self._tables.items()}
        self.second = {name: torch.zeros_like(p) for name, p in self._tables.items()}
        self.counts = {
            name: torch.zeros_like(p[:, 0], dtype=torch.int32) for name, p in self._tables.items()
        }
        """Steps that touched a row `[R]`."""

    @torch.no_grad()
    def step(self, lr: float) -> None:
        """Update the touched rows, in place."""
        fast, slow = BETAS
        for name, table in self._tables.items():
            if table.grad is None:
                continue
            rows_N, gradient_NW = touched_rows(own_part(table.grad))
            own = (self.first, self.second, self.counts)
            first, second, counts = (own_part(state[name]) for state in own)
            count_N1 = counts[rows_N].add_(1)[:, None]
            first_NW = first[rows_N].lerp_(gradient_NW, 1 - fast)
            second_NW = second[rows_N].mul_(slow)
            second_NW.addcmul_(gradient_NW, gradient_NW, value=1 - slow)
            counts[rows_N], first[rows_N], second[rows_N] = count_N1[:, 0], first_NW, second_NW
            scale = (second_NW / (1 - slow**count_N1)).sqrt_().add_(EPSILON)
            change = first_NW.div_(scale).div_(1 - fast**count_N1)
            own_part(table).index_add_(0, rows_N, change, alpha=-lr)


def touched_rows(gradient_RW: Tensor) -> tuple[Tensor, Tensor]:
    """(numbers of the rows with a gradient [N], their gradients [N, W])."""
    if gradient_RW.is_sparse:
        gradient = gradient_RW.coalesce()
        rows_N, gradient_NW = gradient.indices()[0], gradient.values()
        kept_N = gradient_NW.any(dim=1)  # tokens that no loss depends on read rows too
        return rows_N[kept_N], gradient_NW[kept_N]
    rows_N = gradient_RW.any(dim=1).nonzero()[:, 0]
    return rows_N, gradient_RW[rows_N]
