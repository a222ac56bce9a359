"""A frozen weight with a trainable change of low rank: W + scale * B A (LoRA, arXiv 2106.09685).

R: rank, I: inputs, O: outputs.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dsv4.numerics.quantized import Format, QuantizedTensor, Weight, quantize, settled


class Adapted(nn.Module):
    """Stands where a weight `[O, I]` stood, which it keeps as it is, quantised or not.

    `lora_A` [R, I] starts random, `lora_B` [O, R] at zero: at first nothing changes.
    """

    base: nn.Parameter | QuantizedTensor

    def __init__(self, base: Weight, rank: int, scale: float, generator: torch.Generator) -> None:
        super().__init__()
        outputs, inputs = base.shape
        if isinstance(base, QuantizedTensor):
            self.base = base
        else:
            self.base = nn.Parameter(base.detach(), requires_grad=False)
        self.scale = scale
        bound = inputs**-0.5
        start = torch.empty(rank, inputs).uniform_(-bound, bound, generator=generator)
        self.lora_A = nn.Parameter(start)
        self.lora_B = nn.Parameter(torch.zeros(outputs, rank))

    @property
    def rank(self) -> int:
        return self.lora_A.shape[0]

    @property
    def shape(self) -> tuple[int, int]:
        """(outputs, inputs)."""
        return self.lora_B.shape[0], self.lora_A.shape[1]

    @property
    def nbytes(self) -> int:
        """Bytes of the weight and of its change."""
        return self.base.nbytes + self.lora_A.nbytes + self.lora_B.nbytes

    @torch.no_grad()
    def merged(self) -> Tensor:
        """The sum as one float32 matrix [O, I]."""
        base = self.base
        dense = base.dequantize() if isinstance(base, QuantizedTensor) else base.float()
        return torch.addmm(dense, self.lora_B, self.lora_A, alpha=self.scale)

    @torch.no_grad()
    def rounded(self, format: Format) -> QuantizedTensor:
        """The sum in a format. If that is the base's own, scales of blocks change only for changes
        that need it (see `quantized.settled`)."""
        base = self.base
        if not isinstance(base, QuantizedTensor) or base.format != format:
            return quantize(self.merged(), format)
        return quantize(
            torch.addmm(settled(base), self.lora_B, self.lora_A, alpha=self.scale), format
        )


Factor = Weight | Adapted
"""What a matrix product may take as its weight."""
