"""Adapters as files, in the format of PEFT, and what merging one costs.

A folder holds `adapter_config.json` and `adapter_model.safetensors`. A tensor is called
`base_model.model.` + the module's name in transformers' DeepseekV4ForCausalLM + `.lora_A.weight`
([rank, inputs]) or `.lora_B.weight` ([outputs, rank]); what is added to the module's weight is
lora_alpha / r times B A. Routed experts, which transformers stacks into one tensor, are named one
by one, as they would be without stacking: `mlp.experts.3.gate_proj`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from dsv4.checkpoint import names
from dsv4.errors import CheckpointError
from dsv4.files import replace_text
from dsv4.model.transformer import Transformer
from dsv4.model.weights import get_factor, get_weight, set_weight
from dsv4.numerics.adapted import Adapted
from dsv4.training.lora import adaptable
from dsv4.training.origin import base_origin

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."
_BASE = "dsv4.weights"
"""Metadata of the weights file: the base's `origin.base_origin`."""
_START = (None, True, False, "gaussian", "orthogonal", "eva")
"""Ways in which PEFT begins adapters that leave the base as it is (`init_lora_weights`)."""
_PROJECTIONS = {"w1": "gate_proj", "w2": "down_proj", "w3": "up_proj"}
_UNKNOWN = ("use_dora", "rank_pattern", "alpha_pattern", "fan_in_fan_out", "lora_bias")
"""Settings of PEFT that change what the tensors mean and that are not known here."""


def module_name(name: str) -> str:
    """transformers' name of the module whose weight is called `name` in the released layout."""
    layer, dot, rest = name.removesuffix(".weight").partition(".ffn.experts.")
    if not dot:
        return names.to_transformers(name).removesuffix(".weight")
    expert, _, matrix = rest.partition(".")
    return f"model.{layer}.mlp.experts.{expert}.{_PROJECTIONS[matrix]}"


def adapted(model: Transformer) -> Iterator[tuple[str, Adapted]]:
    """(released name, weight) of every adapted matrix."""
    for name in adaptable(model.config):
        value = get_factor(model, name)
        if isinstance(value, Adapted):
            yield name, value


def save_adapter(model: Transformer, folder: Path, base: str) -> None:
    """Write the adapters of a model; `base` names the model they belong to, for people and PEFT."""
    tensors: dict[str, Tensor] = {}
    scales, ranks, modules = set(), set(), set()
    for name, value in adapted(model):
        module = module_name(name)
        tensors[f"{_PREFIX}{module}.lora_A.weight"] = value.lora_A.detach().cpu().contiguous()
        tensors[f"{_PREFIX}{module}.lora_B.weight"] = value.lora_B.detach().cpu().contiguous()
        scales.add(value.scale)
        ranks.add(value.rank)
        modules.add(_suffix(module))
    assert len(scales) == len(ranks) == 1, "one rank and one scale for all"
    rank = ranks.pop()
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": rank,
        "lora_alpha": scales.pop() * rank,
        "lora_dropout": 0.0,
        "target_modules": sorted(modules),
        "bias": "none",
        "fan_in_fan_out": False,
        "use_rslora": False,
        "use_dora": False,
        "init_lora_weights": True,
        "inference_mode": True,
        "modules_to_save": None,
    }
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / WEIGHTS, {"format": "pt", _BASE: base_origin(model)})
    replace_text(folder / CONFIG, json.dumps(config, indent=2) + "\n")


def _suffix(module: str) -> str:
    """What names a module in every layer: PEFT adapts all modules whose names end in it."""
    return module.split(".", 3)[3]


def attach_adapter(model: Transformer, folder: Path, *, any_base: bool = False) -> int:
    """Put the adapters of a folder beside the model's weights; returns how many.

    Raises CheckpointError for files that are missing or damaged, of another kind of adapter or of
    another model, and, unless `any_base`, for those that were trained beside other weights. (PEFT
    does not write down which; then nobody knows.)
    """
    (rank, scale), tensors, base = _read(folder)
    if base and base != base_origin(model) and not any_base:
        raise CheckpointError(
            f"{folder} was trained beside other weights than these",
            "name the model it was trained with; --any-base merges it all the same",
        )
    known = {module_name(name): name for name in adaptable(model.config)}
    count = 0
    while tensors:
        key = next(iter(tensors))
        module, _, kind = key.removeprefix(_PREFIX).rpartition(".lora_")
        name = known.get(module)
        pair = [tensors.pop(f"{_PREFIX}{module}.lora_{part}.weight", None) for part in "AB"]
        if name is None or pair[0] is None or pair[1] is None or not kind:
            raise CheckpointError(
                f"{folder}: {key[:160]!a} is no adapter of this model",
                "adapters of attention matrices and experts are known",
            )
        if pair[0].shape[0] != rank:
            raise CheckpointError(
                f"{folder}: {key[:160]!a} has rank {pair[0].shape[0]}, {CONFIG} says r {rank}"
            )
        _attach(model, name, pair[0].float(), pair[1].float(), scale, folder)
        count += 1
    return count


def _attach(
    model: Transformer, name: str, a_RI: Tensor, b_OR: Tensor, scale: float, folder: Path
) -> None:
    base = get_weight(model, name)
    outputs, inputs = base.shape
    rank = a_RI.shape[0]
    if a_RI.shape != (rank, inputs) or b_OR.shape != (outputs, rank):
        raise CheckpointError(
            f"{folder}: the adapter of {name} is {list(b_OR.shape)} x {list(a_RI.shape)}, the "
            f"matrix {[outputs, inputs]}",
            "the adapter belongs to another model",
        )
    made = Adapted(base, rank, scale, torch.Generator())
    with torch.no_grad():
        made.lora_A.copy_(a_RI)
        made.lora_B.copy_(b_OR)
    set_weight(model, name, made)


def _read(folder: Path) -> tuple[tuple[int, float], dict[str, Tensor], str]:
    """The rank and the scale of an adapter's changes, its tensors, and what they were trained
    beside, if it says so."""
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        with safe_open(folder / WEIGHTS, framework="pt") as file:
            base = (file.metadata() or {}).get(_BASE, "")
            tensors = {key: file.get_tensor(key) for key in sorted(file.keys())}
    except (OSError, ValueError, SafetensorError) as error:
        raise CheckpointError(
            f"{folder} holds no adapter: {str(error)[:200]}", f"{CONFIG} and {WEIGHTS} make one"
        ) from error
    return _size(config, folder), tensors, base


def _size(config: Any, folder: Path) -> tuple[int, float]:
    """Rank, and factor of what is added to a weight."""
    if not isinstance(config, Mapping) or config.get("peft_type") != "LORA":
        raise CheckpointError(f"{folder / CONFIG} describes no LoRA adapter")
    odd = [key for key in _UNKNOWN if config.get(key)]
    if odd:
        raise CheckpointError(f"{folder / CONFIG}: {odd[0]} is not supported")
    start = config.get("init_lora_weights")
    if start not in _START:
        raise CheckpointError(
            f"{folder / CONFIG}: init_lora_weights {start!a} changes the base as well",
            "have PEFT convert it: save_pretrained with path_initial_model_for_weight_conversion",
        )
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if type(rank) is not int or rank < 1:
        raise CheckpointError(f"{folder / CONFIG}: r is {rank!a}, not a number from 1 on")
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not math.isfinite(alpha):
        raise CheckpointError(f"{folder / CONFIG}: lora_alpha is {alpha!a}, not a number")
    return rank, alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank


@dataclass(frozen=True, slots=True)
class MergeError:
    """Of all merged matrices together: the size of their changes, and of what rounding made of
    the merged matrices, both relative to the matrices (Frobenius norms)."""

    matrices: int
    change: float
    error: float


def merge_error(model: Transformer, written: Transformer) -> MergeError:
    """How far the adapted matrices of `model` are from those that were written as `written`."""
    count, norm, change, error = 0, 0.0, 0.0, 0.0
    for name, value in adapted(model):
        merged, stored = value.merged(), get_weight(written, name)
        got = stored.float() if isinstance(stored, Tensor) else stored.dequantize()
        delta = value.scale * (value.lora_B @ value.lora_A).detach()
        count += 1
        norm += float(merged.square().sum())
        change += float(delta.square().sum())
        error += float((got - merged).square().sum())
    norm = max(norm, 1e-30)
    return MergeError(count, math.sqrt(change / norm), math.sqrt(error / norm))
