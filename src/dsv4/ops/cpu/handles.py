"""Weights as the native operations see them: addresses, with the tensors behind them kept alive.

X: inputs of a matrix, O: its outputs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dsv4.numerics.adapted import Adapted, Factor
from dsv4.numerics.quantized import FP4, FP8, FP8_32, FP8_F32, FP8_ROWS, QuantizedTensor
from dsv4.ops.cpu.native import native
from dsv4.ops.fused import Unsupported

_CODES = {FP8: 2, FP8_F32: 3, FP4: 4, FP8_ROWS: 5}
_PLAIN = {torch.float32: 0, torch.bfloat16: 1}


class Handles:
    """Makes native handles and owns what they point at; lives as long as the operation."""

    def __init__(self) -> None:
        self._kept: list[Tensor] = []

    def matrix(self, weight: Factor) -> Any:
        """`native.Matrix` of a weight `[O, X]`, used where it lies.

        One in blocks of 32 x 32 becomes bfloat16, which holds its values exactly.
        """
        if isinstance(weight, Adapted):
            raise Unsupported("an adapted matrix (merge the adapter to serve it)")
        if isinstance(weight, QuantizedTensor) and weight.format is FP8_32:
            weight = weight.dequantize(torch.bfloat16)
        if isinstance(weight, QuantizedTensor):
            if weight.format is FP4 and weight.shape[1] % 32:
                raise Unsupported(f"an FP4 matrix with {weight.shape[1]} inputs, no multiple of 32")
            data, scale = self._kept_on_cpu(weight.data), self._kept_on_cpu(weight.scale)
            return stored_matrix(QuantizedTensor(data, scale, weight.format))
        plain = weight.detach()
        if plain.dtype not in _PLAIN:
            plain = plain.float()
        plain = self._kept_on_cpu(plain)
        return native.Matrix(plain.data_ptr(), 0, *plain.shape, _PLAIN[plain.dtype])

    def vector(self, values: Tensor) -> int:
        """Address of a small tensor as float32 (itself if it is that, so that it stays live)."""
        return self._kept_on_cpu(values.detach().float()).data_ptr()

    def integers(self, values: Tensor) -> int:
        """Address of an int64 tensor."""
        return self._kept_on_cpu(values.detach().to(torch.int64)).data_ptr()

    def _kept_on_cpu(self, tensor: Tensor) -> Tensor:
        if tensor.device.type != "cpu":
            raise Unsupported(f"weights on {tensor.device.type}")
        tensor = tensor.contiguous()
        self._kept.append(tensor)
        return tensor


def stored_matrix(weight: QuantizedTensor) -> Any:
    """`native.Matrix` of a weight that the caller keeps alive, contiguous, in memory."""
    return native.Matrix(
        weight.data.data_ptr(), weight.scale.data_ptr(), *weight.shape, _CODES[weight.format]
    )


def require(condition: bool, reason: str) -> None:
    """Raise Unsupported with `reason` unless the condition holds."""
    if not condition:
        raise Unsupported(reason)
