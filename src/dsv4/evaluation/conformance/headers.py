"""What a folder's configuration and headers say, before any number is read."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from pathlib import Path

from dsv4.checkpoint.folder import INDEX_NAME
from dsv4.checkpoint.layout import tensors
from dsv4.checkpoint.plan import Plan, make_plan
from dsv4.config import ModelConfig
from dsv4.errors import CheckpointError, ConfigError
from dsv4.evaluation.conformance.finding import Finding
from dsv4.presets import preset

RELEASED = ("flash", "pro")
EXPERTS = "vllm#42970, tokenspeed#1095: experts read in the format of quant_method"
SHIFTED = "compress_ratios off by one layer"
COUNTED = "layers counted from the length of compress_ratios"
_ADAPTED = ("expert_dtype", "scale_dtype")  # what -Base checkpoints differ in


def check_headers(folder: Path) -> tuple[Plan | None, list[Finding]]:
    """The folder's plan, None if its headers do not fit its configuration, and what was found."""
    try:
        plan = make_plan(folder)
    except ConfigError as error:
        return None, [Finding(str(error), "config.json", hint=error.hint)]
    except CheckpointError as error:
        return None, [
            Finding(str(error), "headers", resembles=_miscounted(folder), hint=error.hint)
        ]
    found = [
        Finding(text, "headers", "warning", resembles=EXPERTS if "expert_dtype" in text else None)
        for text in plan.notes
    ]
    found += _sizes(plan)
    found += _released(plan.config)
    found += _quantization(plan)
    return plan, found


def _sizes(plan: Plan) -> list[Finding]:
    """Bytes against the index, and against the table that Flash and Pro match exactly."""
    found = []
    path = plan.folder / INDEX_NAME
    if path.exists():
        total = json.loads(path.read_text(encoding="utf-8")).get("metadata", {}).get("total_size")
        if total is not None and total != plan.nbytes and not plan.config.draft_stages:
            what = f"{INDEX_NAME} says {total} bytes, the tensors have {plan.nbytes}"
            found.append(Finding(what, INDEX_NAME, "warning", hint="the index is of another model"))
    if plan.layout == "released":
        expected = sum(spec.nbytes for spec in tensors(plan.config))
        if expected != plan.nbytes:
            what = f"{plan.nbytes} bytes of tensors, {expected} in the released formats"
            hint = "tensors of another precision than released: more memory, other roundings"
            found.append(Finding(what, "headers", "note", hint=hint))
    return found


def _released(config: ModelConfig) -> list[Finding]:
    """Settings in which a model of a released size differs from the release."""
    for name in RELEASED:
        model = preset(name)
        same = (config.hidden_size, config.num_hidden_layers, config.n_routed_experts) == (
            model.hidden_size,
            model.num_hidden_layers,
            model.n_routed_experts,
        )
        if same:
            return [
                Finding(
                    f"{key} is {getattr(config, key)!r}, in the released {name} "
                    f"{getattr(model, key)!r}",
                    "config.json",
                    "warning",
                    resembles=_KEYS.get(key),
                    hint="weights trained with one value give wrong numbers with another",
                )
                for key in (field.name for field in fields(ModelConfig))
                if key not in _ADAPTED and getattr(config, key) != getattr(model, key)
            ]
    return []


_KEYS = {
    "compress_rope_theta": "one-rope-base",
    "rope_theta": "one-rope-base",
    "rope_scaling": "no-yarn",
    "swiglu_limit": "routed-experts-not-clamped",
}


def _quantization(plan: Plan) -> list[Finding]:
    """Whether the configuration's words on formats are what the tensors are."""
    values = json.loads((plan.folder / "config.json").read_text(encoding="utf-8"))
    block = values.get("quantization_config")
    if not isinstance(block, dict):
        return []
    found, hint = [], "engines have to read the dtype of the tensors"
    if plan.config.scale_dtype == "f32" and block.get("scale_fmt") == "ue8m0":
        what = "config.json says scales are ue8m0, the tensors are float32 (so are those of -Base)"
        found.append(Finding(what, "config.json", "note", resembles="scales-as-numbers", hint=hint))
    method, experts = block.get("quant_method"), plan.config.expert_dtype
    said = "expert_dtype" in values or "expert_dtype" in block
    if not said and method is not None and experts != method:
        what = f"config.json says quant_method {method} and no expert_dtype; experts are {experts}"
        found.append(Finding(what, "config.json", "note", resembles=EXPERTS, hint=hint))
    return found


def _miscounted(folder: Path) -> str | None:
    """How compress_ratios, which has an entry for the MTP block too, was misread, if it was: it
    fits the tensors when it is moved by one layer, or its length is taken for that of the stack."""
    from dsv4 import config as configuration
    from dsv4.checkpoint.folder import read_stored

    try:
        config, found = configuration.load(folder), read_stored(folder)
    except (ConfigError, CheckpointError):
        return None
    layers = {match[1] for match in map(_LAYER.match, found) if match}
    if len(layers) < config.num_hidden_layers == len(config.compress_ratios):
        return COUNTED
    stored = []
    for layer in range(config.num_hidden_layers):
        ape = next(
            (f for n, f in found.items() if n.endswith(f"layers.{layer}.attn.compressor.ape")), None
        )
        stored.append(ape.shape[0] if ape is not None and ape.shape else 0)
    said = list(config.layer_ratios)
    moved = stored != said and (stored[1:] == said[:-1] or stored[:-1] == said[1:])
    return SHIFTED if moved else None


_LAYER = re.compile(r"(?:model\.)?layers\.(\d+)\.")
