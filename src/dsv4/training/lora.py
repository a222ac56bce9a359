"""LoRA: fine-tuning of a released model whose weights stay as they are stored.

The base stays in its mapped files, experts in FP4 and matrices in FP8, decoded when a product
needs them, forward and again backward; what is trained is a pair of small float32 matrices beside
each chosen one (`numerics.adapted`). So memory is that of the stored model plus activations.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import inf
from types import MappingProxyType

import torch

from dsv4 import checkpoint, parallel
from dsv4.checkpoint import layout
from dsv4.config import ModelConfig
from dsv4.encoding.tokenizer import Tokenizer
from dsv4.errors import UsageError
from dsv4.model.transformer import Transformer
from dsv4.model.weights import get_factor, get_weight, set_weight
from dsv4.numerics.adapted import Adapted
from dsv4.numerics.quantized import QuantizedTensor
from dsv4.training.metrics import Report, Status
from dsv4.training.optimizer import OptimizerSettings
from dsv4.training.policy import OPTIMIZER
from dsv4.training.pretrain import Trained, train_on
from dsv4.training.sft import Prepared, SftConfig

TARGETS = MappingProxyType(
    {
        "attention": r"layers\.\d+\.attn\.(wq_a|wq_b|wkv|wo_b)\.weight",
        "output": r"layers\.\d+\.attn\.wo_a\.weight",
        "shared": r"layers\.\d+\.ffn\.shared_experts\.w[123]\.weight",
        "experts": r"layers\.\d+\.ffn\.experts\.\d+\.w[123]\.weight",
    }
)
"""What can be adapted -> names of its matrices. `output` is apart because its matrix is one of
groups, which adapters of other software treat differently."""


@dataclass(frozen=True, slots=True)
class LoraSettings:
    """rank: of the changes. alpha: they are scaled by alpha / rank. targets: keys of TARGETS."""

    rank: int = 16
    alpha: float = 32.0
    targets: tuple[str, ...] = ("attention", "shared")

    def __post_init__(self) -> None:
        if self.rank < 1 or not 0 < self.alpha < inf:
            raise UsageError(f"rank {self.rank}, alpha {self.alpha}", "finite, both above 0")
        unknown = [target for target in self.targets if target not in TARGETS]
        if unknown or not self.targets:
            raise UsageError(
                f"nothing is called {', '.join(unknown) or 'nothing'}", "of " + ", ".join(TARGETS)
            )

    @property
    def scale(self) -> float:
        return self.alpha / self.rank


def adaptable(config: ModelConfig, targets: tuple[str, ...] = tuple(TARGETS)) -> Iterator[str]:
    """Names of the matrices of a model that `targets` mean, in the order of the layers."""
    pattern = re.compile("|".join(TARGETS[target] for target in targets))
    for parameter in layout.parameters(config):
        if pattern.fullmatch(parameter.name):
            yield parameter.name


def attach(model: Transformer, settings: LoraSettings, seed: int) -> None:
    """Put adapters beside the chosen matrices, in place; they change nothing yet, and only they
    require gradients."""
    rng = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    for name in adaptable(model.config, settings.targets):
        base = get_weight(model, name)
        set_weight(model, name, Adapted(base, settings.rank, settings.scale, rng))


@dataclass(frozen=True, kw_only=True)
class LoraConfig(SftConfig):
    """A fine-tuning run that trains adapters, in one process; documents as in `SftConfig`."""

    lora: LoraSettings = field(default_factory=LoraSettings)
    optimizer: OptimizerSettings = OPTIMIZER
    bias_speed: float = 0.0
    quantise_from: float = 1.0

    def __post_init__(self) -> None:
        parallel.refuse("training of adapters")


def train_lora(
    config: LoraConfig,
    prepared: Prepared,
    *,
    report: Report = lambda record: None,
    status: Status = lambda line: None,
) -> Trained:
    """Run (or resume) it; the model that is returned holds its adapters (`adapters.save_adapter`).

    Raises UsageError for a precision with compiled ops, which compute without adapters.
    """
    if config.precision != "float32":
        raise UsageError(f"adapters do not train in {config.precision}", "in float32 they do")
    canonical = Tokenizer.canonical_ids_of(config.init)
    model = checkpoint.load(config.init, canonical_ids=canonical)
    attach(model, config.lora, config.seed)
    if config.device != "cpu":
        _move_codes(model, config.device)
    trained = train_on(model, prepared.mix, prepared.heldout, prepared.config, report, status)
    _move_codes(model, "cpu")
    return trained


def _move_codes(model: Transformer, device: str) -> None:
    """Take quantised weights to a device; torch moves parameters only."""
    for parameter in layout.parameters(model.config):
        value = get_factor(model, parameter.name)
        if isinstance(value, QuantizedTensor):
            set_weight(model, parameter.name, value.to(device))
        elif isinstance(value, Adapted) and isinstance(value.base, QuantizedTensor):
            value.base = value.base.to(device)
