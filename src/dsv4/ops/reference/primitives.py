"""Norms, rotations, projections.

Shapes: any number of leading axes `...`; C channels, R rotary channels, I inputs, O outputs.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dsv4.numerics.activation import fake_quant_fp8, fake_quant_int8
from dsv4.numerics.adapted import Adapted, Factor
from dsv4.numerics.policy import Numerics
from dsv4.numerics.quantized import FP4, QuantizedTensor

ACTIVATION_BLOCK = 128


def linear(x: Tensor, weight: Factor, numerics: Numerics) -> Tensor:
    """`x[..., I] @ weight[O, I].T`, accumulated in float32, rounded to `numerics.dtype`.

    A quantised weight makes the released kernels quantise `x` to FP8 in blocks of 128
    (architecture report, FP8 training); a bf16 or float32 weight does not. The low-rank change
    of an adapted weight is a product of its own, of `x` as it comes.
    """
    if isinstance(weight, Adapted):
        change = F.linear(F.linear(x.float(), weight.lora_A), weight.lora_B) * weight.scale
        return (linear(x, weight.base, numerics).float() + change).to(numerics.dtype)
    if numerics.whole_inputs and isinstance(weight, QuantizedTensor) and weight.format is FP4:
        x = fake_quant_int8(x.float())
    else:
        x = x.to(numerics.inputs)
    if isinstance(weight, QuantizedTensor):
        if numerics.quantized:
            x = fake_quant_fp8(x, ACTIVATION_BLOCK)
        product: Tensor = _QuantizedProduct.apply(x.float(), weight)
        return product.to(numerics.dtype)
    return F.linear(x.float(), weight.float()).to(numerics.dtype)


class _QuantizedProduct(torch.autograd.Function):
    """`x @ weight.T` whose gradient decodes the weight again, so that nothing but its codes is kept
    between the two."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: QuantizedTensor) -> Tensor:
        ctx.weight = weight
        return F.linear(x, weight.dequantize())

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return dy @ ctx.weight.dequantize(), None


def linear_f32(x: Tensor, weight: Tensor, numerics: Numerics) -> Tensor:
    """`x[..., I] @ weight[O, I].T` in float32 (compressor, head)."""
    return F.linear(x.to(numerics.inputs).float(), weight.float())


def rms_norm(x: Tensor, weight: Tensor, eps: float, numerics: Numerics) -> Tensor:
    """Root-mean-square norm over the last axis, in float32 with one rounding at the end."""
    x = x.float()
    scale = torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)
    return (x * scale * weight.float()).to(numerics.dtype)


def head_norm(q: Tensor, eps: float) -> Tensor:
    """Unweighted norm of every query head; the released code rounds after each step."""
    return q * torch.rsqrt(q.square().mean(-1, keepdim=True) + eps)


def rotate(x: Tensor, cos: Tensor, sin: Tensor, *, inverse: bool = False) -> Tensor:
    """RoPE on the last R channels of `x[..., C]`, as adjacent pairs.

    `cos`, `sin`: `[..., R/2]`, broadcast against the leading axes of `x`. `inverse` turns by
    the negative angle (output de-rotation, report 2.3.3).
    """
    width = 2 * cos.shape[-1]
    keep, turn = x[..., :-width], x[..., -width:].float()
    even, odd = turn[..., 0::2], turn[..., 1::2]
    if inverse:
        sin = -sin
    turned = torch.stack((even * cos - odd * sin, even * sin + odd * cos), -1).flatten(-2)
    return torch.cat((keep, turned.to(x.dtype)), -1)


@functools.cache
def _sylvester(size: int) -> Tensor:
    """The Hadamard matrix `[size, size]` in Sylvester order, orthonormal."""
    matrix = torch.ones(1, 1)
    while matrix.shape[0] < size:
        matrix = torch.cat((torch.cat((matrix, matrix), 1), torch.cat((matrix, -matrix), 1)))
    return matrix * size**-0.5


def hadamard(x: Tensor) -> Tensor:
    """`x[..., C]` times the orthonormal Hadamard matrix; C is a power of two."""
    return (x.float() @ _sylvester(x.shape[-1]).to(x.device)).to(x.dtype)


def grouped_linear(x_TGI: Tensor, weight: Factor, numerics: Numerics) -> Tensor:
    """Each group's own projection: `[..., G, I]` with `weight[G * O, I]` gives `[..., G * O]`.

    The released code runs this one on dequantised weights, so `x` is never quantised here.
    """
    if isinstance(weight, Adapted):
        low_TGR = F.linear(x_TGI.float(), weight.lora_A)
        change = torch.einsum("...gr,gor->...go", low_TGR, _by_group(weight.lora_B, x_TGI))
        base = grouped_linear(x_TGI, weight.base, numerics).float()
        return (base + change.flatten(-2) * weight.scale).to(numerics.dtype)
    x_TGI = x_TGI.to(numerics.inputs).float()
    if isinstance(weight, QuantizedTensor):
        out: Tensor = _QuantizedGroups.apply(x_TGI, weight)
    else:
        out = torch.einsum("...gi,goi->...go", x_TGI, _by_group(weight.float(), x_TGI))
    return out.flatten(-2).to(numerics.dtype)


def _by_group(weight: Tensor, x_TGI: Tensor) -> Tensor:
    """The weight `[G * O, I]` as `[G, O, I]`."""
    return weight.unflatten(0, (x_TGI.shape[-2], -1))


class _QuantizedGroups(torch.autograd.Function):
    """`_QuantizedProduct` of each group."""

    @staticmethod
    def forward(ctx: Any, x_TGI: Tensor, weight: QuantizedTensor) -> Tensor:
        ctx.weight = weight
        return torch.einsum("...gi,goi->...go", x_TGI, _by_group(weight.dequantize(), x_TGI))

    @staticmethod
    def backward(ctx: Any, dy_TGO: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        weight_GOI = _by_group(ctx.weight.dequantize(), dy_TGO)
        return torch.einsum("...go,goi->...gi", dy_TGO, weight_GOI), None
