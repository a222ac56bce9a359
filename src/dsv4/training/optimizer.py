"""Which optimiser trains which parameter of V4 (report, section 4.2.2), and their joint state.

| parameters | optimiser | weight decay |
|---|---|---|
| every matrix of the layers and of MTP, router and mHC projections included | Muon | 0.1 |
| embed, head, RMSNorm weights, mHC base and scale | AdamW | 0.1 |
| attention sinks, compressor position biases (`ape`) | AdamW | none |

The report does not say who trains sinks and position biases; they are not matrices in the sense
of Muon, and decay would pull them towards an arbitrary zero. The router's selection bias is
moved by load, not by gradient (`loss.move_biases`).

Logically independent matrices that share a tensor are updated separately: the groups of `wo_a`,
the collapse, expand and mixing rows of mHC, the two series of an overlapping compressor.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from dsv4.config import ModelConfig
from dsv4.errors import CheckpointError
from dsv4.training.muon import Muon

Matrices = Literal["muon", "adamw"]
"""Who trains the matrices of the layers."""

_NO_DECAY = ("attn_sink", ".ape")
_ADAM = ("embed.weight", "head.weight", "norm.weight", "_base", "_scale", *_NO_DECAY)


class AdamW:
    """AdamW over named tensors with V4's constants (epsilon 1e-20 needs float32 state)."""

    def __init__(
        self,
        parameters: Mapping[str, Tensor],
        decay: Mapping[str, float],
        *,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-20,
    ) -> None:
        self._parameters, self._decay = dict(parameters), dict(decay)
        self._betas, self._eps = betas, eps
        self.steps = 0
        self.first = {name: torch.zeros_like(p) for name, p in self._parameters.items()}
        self.second = {name: torch.zeros_like(p) for name, p in self._parameters.items()}

    @torch.no_grad()
    def step(self, lr: float) -> None:
        """Update every parameter that has a gradient, in place."""
        self.steps += 1
        fast, slow = self._betas
        for name, parameter in self._parameters.items():
            gradient = parameter.grad
            if gradient is None:
                continue
            first = self.first[name].lerp_(gradient, 1 - fast)
            second = self.second[name].mul_(slow).addcmul_(gradient, gradient, value=1 - slow)
            scale = (second / (1 - slow**self.steps)).sqrt_().add_(self._eps)
            parameter.mul_(1 - lr * self._decay[name])
            parameter.addcdiv_(first, scale, value=-lr / (1 - fast**self.steps))


class Optimizer:
    """Muon and AdamW over one model."""

    def __init__(
        self,
        model: nn.Module,
        config: ModelConfig,
        *,
        weight_decay: float = 0.1,
        matrices: Matrices = "muon",
        muon_dtype: torch.dtype = torch.float32,
        eps: float = 1e-20,
    ) -> None:
        named = {n: p for n, p in model.named_parameters() if p.requires_grad}
        muon = {n: p for n, p in named.items() if matrices == "muon" and is_muon(n, p)}
        rest = {n: p for n, p in named.items() if n not in muon}
        pieces = {n: split_rows(n, p, config) for n, p in muon.items()}
        decay = {n: 0.0 if n.endswith(_NO_DECAY) else weight_decay for n in rest}
        self.muon = Muon(muon, pieces, weight_decay=weight_decay, dtype=muon_dtype)
        self.adamw = AdamW(rest, decay, eps=eps)
        self._named = named

    def step(self, lr: float) -> None:
        """One step of both, then forget the gradients."""
        self.muon.step(lr)
        self.adamw.step(lr)
        for parameter in self._named.values():
            parameter.grad = None

    def state(self) -> dict[str, Tensor]:
        """Everything the next step depends on, as named tensors (not copies)."""
        tensors = {f"muon.{n}": t for n, t in self.muon.momenta.items()}
        tensors |= {f"adamw.first.{n}": t for n, t in self.adamw.first.items()}
        tensors |= {f"adamw.second.{n}": t for n, t in self.adamw.second.items()}
        return tensors | {"adamw.steps": torch.tensor(self.adamw.steps)}

    @torch.no_grad()
    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Put a saved state back. Raises CheckpointError if it is of another model."""
        own = self.state()
        if set(own) != set(tensors):
            odd = sorted(set(own) ^ set(tensors))
            raise CheckpointError(f"optimizer state does not fit the model: {', '.join(odd[:5])}")
        self.adamw.steps = int(tensors["adamw.steps"])
        for name, tensor in own.items():
            if name != "adamw.steps":
                tensor.copy_(tensors[name])


def is_muon(name: str, parameter: Tensor) -> bool:
    """Whether Muon trains the parameter."""
    return parameter.dim() == 2 and not name.endswith(_ADAM)


def split_rows(name: str, parameter: Tensor, config: ModelConfig) -> tuple[int, ...]:
    """Row counts of the independent matrices stacked in a matrix parameter."""
    rows = parameter.shape[0]
    if name.endswith("wo_a.weight"):
        return (rows // config.o_groups,) * config.o_groups
    if name.endswith(("hc_attn_fn", "hc_ffn_fn")):
        n = config.hc_mult
        return (n, n, rows - 2 * n)
    if ".compressor.w" in name:
        width = config.index_head_dim if ".indexer." in name else config.head_dim
        return (width,) * (rows // width)
    return (rows,)
