"""Which optimiser trains which parameter of V4 (report, section 4.2.2), and their joint state.

| parameters | optimiser | weight decay |
|---|---|---|
| every matrix of the layers and of MTP, router and mHC projections included | Muon | 0.1 |
| embed, head, RMSNorm weights, mHC base and scale | AdamW | 0.1 |
| attention sinks, compressor position biases (`ape`), Engram's gate and filters | AdamW | none |
| Engram tables | row Adam or balanced momentum, at 5 times the rate | none |

The report does not say who trains sinks and position biases; they are not matrices in the sense
of Muon, and decay would pull them towards an arbitrary zero. The router's selection bias is
moved by load, not by gradient (`loss.move_biases`). The Engram rows are those of its paper and of
V4.1 (the balanced momentum).

Logically independent matrices that share a tensor are updated separately: the groups of `wo_a`,
the collapse, expand and mixing rows of mHC, the two series of an overlapping compressor, the keys
and the value of an Engram projection.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from dsv4 import parallel
from dsv4.config import ModelConfig
from dsv4.errors import CheckpointError
from dsv4.training.adam import EPSILON, AdamW, RowAdam
from dsv4.training.balanced import BalancedMomentum
from dsv4.training.muon import Muon

_TABLE = "engram.embed.weight"
_NO_DECAY = ("attn_sink", ".ape", "engram.q_weight", "engram.k_weight", "engram.conv.weight")
_ADAM = ("embed.weight", "head.weight", "norm.weight", "_base", "_scale", *_NO_DECAY)
_TABLE_RATE = 5.0


@dataclass(frozen=True)
class OptimizerSettings:
    """Who trains what.

    matrices: optimiser of the layers' matrices; `adamw` is there to compare with. tables:
    optimiser of Engram tables. eps: of AdamW; V4's lets every gradient move the weights as far,
    however small it is. muon_dtype: of Muon's products.
    """

    matrices: Literal["muon", "adamw"] = "muon"
    tables: Literal["adam", "balanced"] = "adam"
    weight_decay: float = 0.1
    eps: float = EPSILON
    muon_dtype: torch.dtype = torch.float32


class Optimizer:
    """All optimisers over the parameters of one model that require gradients."""

    def __init__(self, model: nn.Module, config: ModelConfig, settings: OptimizerSettings) -> None:
        named = {n: p for n, p in model.named_parameters() if p.requires_grad}
        tables = {n: p for n, p in named.items() if n.endswith(_TABLE)}
        matrices = {n: p for n, p in named.items() if settings.matrices == "muon" and is_muon(n, p)}
        rest = {n: p for n, p in named.items() if n not in matrices and n not in tables}
        pieces = {n: split_rows(n, p, config) for n, p in matrices.items()}
        decay = {n: 0.0 if n.endswith(_NO_DECAY) else settings.weight_decay for n in rest}
        self.muon = Muon(
            matrices, pieces, weight_decay=settings.weight_decay, dtype=settings.muon_dtype
        )
        self.adamw = AdamW(rest, decay, eps=settings.eps)
        balanced = settings.tables == "balanced"
        self.rows = RowAdam({} if balanced else tables)
        self.balanced = BalancedMomentum(tables if balanced else {})
        self._named = named

    def step(self, lr: float) -> None:
        """One step of all, then forget the gradients."""
        self.muon.step(lr)
        self.adamw.step(lr)
        self.rows.step(_TABLE_RATE * lr)
        self.balanced.step(_TABLE_RATE * lr)
        for parameter in self._named.values():
            parameter.grad = None

    def state(self) -> dict[str, Tensor]:
        """Everything the next step depends on, as named tensors (not copies)."""
        return dict(self._state())

    def _state(self) -> Iterator[tuple[str, Tensor]]:
        groups = {
            "muon": self.muon.momenta,
            "adamw.first": self.adamw.first,
            "adamw.second": self.adamw.second,
            "rows.first": self.rows.first,
            "rows.second": self.rows.second,
            "rows.counts": self.rows.counts,
            "balanced": self.balanced.momenta,
        }
        yield "adamw.counts", self.adamw.counts
        for group, tensors in groups.items():
            for name, tensor in tensors.items():
                yield f"{group}.{name}", tensor

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Put a saved state back. Raises CheckpointError if it is of another model."""
        own = self.state()
        if {n: t.shape for n, t in own.items()} != {n: t.shape for n, t in tensors.items()}:
            odd = sorted(set(own) ^ set(tensors)) or ["shapes differ"]
            raise CheckpointError(f"optimizer state does not fit the model: {', '.join(odd[:5])}")
        for name, tensor in own.items():
            parallel.keep(tensor, tensors[name])


def is_muon(name: str, parameter: Tensor) -> bool:
    """Whether Muon trains the parameter."""
    return parameter.dim() == 2 and not name.endswith((*_ADAM, _TABLE))


def split_rows(name: str, parameter: Tensor, config: ModelConfig) -> tuple[int, ...]:
    """Row counts of the independent matrices stacked in a matrix parameter."""
    rows = parameter.shape[0]
    if name.endswith("wo_a.weight"):
        return (rows // config.o_groups,) * config.o_groups
    if name.endswith(("hc_attn_fn", "hc_ffn_fn")):
        n = config.hc_mult
        return (n, n, rows - 2 * n)
    if name.endswith("engram.wkv.weight"):
        return (config.hidden_size,) * (rows // config.hidden_size)
    if ".compressor.w" in name:
        width = config.index_head_dim if ".indexer." in name else config.head_dim
        return (width,) * (rows // width)
    return (rows,)
