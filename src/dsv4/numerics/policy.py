"""Numerics as a policy with three values, chosen at load and reported in every output.

`exact`     dequantised weights, float32, no activation quantisation: the mathematical model.
`official`  the roundings of the released inference code (FP8 activations and KV, Hadamard and
            FP4 in the indexer, bf16 between operators).
`fast`      inputs of products in bf16 or int8 and the cache in FP8 and FP4, which is what kernels
            do best; its distance from the other two is measured.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from dsv4.errors import UsageError


@dataclass(frozen=True, slots=True)
class Numerics:
    """How a forward pass rounds.

    `dtype`: what tensors are rounded to between operators.
    `quantized`: whether activations, KV entries and index vectors are rounded to FP8 and FP4
    where the released kernels do so (only in front of weights that are stored quantised).
    `probabilities`: what attention probabilities are rounded to before the value product.
    `inputs`: what the input of every matrix product with a weight is rounded to before it.
    `whole_inputs`: whether in front of FP4 weights it is rounded to int8 in blocks instead.
    `packed`: whether KV entries and index keys are kept in the byte formats of the serving cache
    (`numerics.rows`), which rounds them as the released kernels do.
    """

    name: str
    dtype: torch.dtype = torch.float32
    quantized: bool = False
    probabilities: torch.dtype = torch.float32
    inputs: torch.dtype = torch.float32
    whole_inputs: bool = False
    packed: bool = False

    @property
    def rounds_cache(self) -> bool:
        """Whether KV entries are rounded to FP8, and index queries and keys to FP4."""
        return self.quantized or self.packed


EXACT = Numerics("exact")
OFFICIAL = Numerics("official", torch.bfloat16, quantized=True, probabilities=torch.bfloat16)
OFFICIAL_F32 = Numerics("official-f32", torch.float32, quantized=True)
"""Every quantisation step of `official`, but float32 between operators (for comparisons)."""
FAST = Numerics("fast", inputs=torch.bfloat16, whole_inputs=True, packed=True)
"""What the CPU kernels compute: products of bfloat16 inputs (int8 with FP4 weights) with exact
weights, summed in float32, and the serving cache. Between operators nothing is rounded."""
BF16 = Numerics("bf16", torch.bfloat16)
"""Nothing quantised, bfloat16 between operators: mixed-precision training."""

POLICIES = {policy.name: policy for policy in (EXACT, OFFICIAL, OFFICIAL_F32, FAST)}


def by_name(name: str) -> Numerics:
    """The policy called `name`; raises UsageError listing the names there are."""
    if name not in POLICIES:
        raise UsageError(f"numerics {name!r} is unknown", f"one of {', '.join(POLICIES)}")
    return POLICIES[name]
