"""Leaf modules that only hold a weight: what it is multiplied with is decided by the ops."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dsv4.numerics.adapted import Adapted
from dsv4.numerics.quantized import QuantizedTensor


class Linear(nn.Module):
    """A matrix `weight[outputs, inputs]`: a parameter, or what was put in its place."""

    weight: nn.Parameter | QuantizedTensor | Adapted

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs))


class Dense(nn.Module):
    """A matrix `weight[outputs, inputs]` that is never quantised (compressors, head)."""

    weight: nn.Parameter

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs))


class Norm(nn.Module):
    """The weight `[size]` of an RMSNorm, used directly (not as 1 + w)."""

    weight: nn.Parameter

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))


class Embedding(nn.Module):
    """A token table `weight[vocabulary, channels]`."""

    weight: nn.Parameter

    def __init__(self, vocabulary: int, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(vocabulary, channels))

    def forward(self, ids: Tensor, dtype: torch.dtype) -> Tensor:
        return nn.functional.embedding(ids, self.weight).to(dtype)


class Table(nn.Module):
    """Rows `weight[rows, channels]` that are looked up: a parameter, or a QuantizedTensor.

    `sparse`: its gradient names the rows that were read instead of filling a whole table.
    """

    weight: nn.Parameter | QuantizedTensor

    def __init__(self, rows: int, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(rows, channels))
        self.sparse = False

    def forward(self, rows: Tensor, dtype: torch.dtype) -> Tensor:
        """The rows with these numbers, `[..., channels]`, on the device of the numbers; the table
        may be on another one, as in memory beside a GPU."""
        place = rows.to(self.weight.device)
        if isinstance(self.weight, QuantizedTensor):
            found = self.weight.gather(place.flatten()).unflatten(0, place.shape)
        else:
            found = nn.functional.embedding(place, self.weight, sparse=self.sparse)
        return found.to(dtype).to(rows.device, non_blocking=True)
