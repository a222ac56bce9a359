"""Writing a model as a folder that this package, and others, can load."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import torch
from torch import Tensor

from dsv4.checkpoint import layout, names
from dsv4.checkpoint.layout import Parameter, Storage, TensorSpec
from dsv4.checkpoint.values import is_finite
from dsv4.checkpoint.writer import Progress, write_checkpoint
from dsv4.config import ModelConfig
from dsv4.errors import CheckpointError
from dsv4.model.transformer import Transformer
from dsv4.model.weights import get_factor, get_weight
from dsv4.numerics.adapted import Adapted
from dsv4.numerics.quantized import Format, QuantizedTensor, Weight, quantize

ONE_FILE_BYTES = 1 << 30
"""Models up to this size are written as one file, larger ones layer by layer as released."""
TRANSFORMERS_SHARD_BYTES = 4 << 30


def file_plan(
    config: ModelConfig, otherwise: Mapping[str, Storage] = MappingProxyType({})
) -> list[list[TensorSpec]]:
    """The released layout's tensors, file by file: as released, or one file for a small model.

    otherwise: name -> storage of the weights that are not stored as the layout says.
    """
    files = [
        [spec for parameter in shard for spec in _stored(parameter, otherwise).stored()]
        for shard in layout.shards(config)
    ]
    if sum(spec.nbytes for file in files for spec in file) > ONE_FILE_BYTES:
        return files
    return [[spec for file in files for spec in file]]


def _stored(parameter: Parameter, otherwise: Mapping[str, Storage]) -> Parameter:
    storage = otherwise.get(parameter.name)
    if storage is None:
        return parameter
    if isinstance(storage, Format):
        return replace(parameter, format=storage)
    return replace(parameter, format=None, dtype=storage)


def export_released(
    model: Transformer,
    folder: Path | str,
    *,
    otherwise: Mapping[str, Storage] = MappingProxyType({}),
    overwrite: bool = False,
    progress: Progress | None = None,
) -> None:
    """Write `model` in the released layout: FP8 matrices, FP4 (or FP8) experts, BF16 and F32.

    The formats are those of `model.config`, but for weights named in `otherwise` (with that of the
    folder it was loaded from, `Plan.otherwise`, every weight stays as it was stored). Weights that
    are quantised that way already are written as they are, others are rounded; adapted ones are
    merged, one at a time. All or nothing: see `writer.staged`. Raises CheckpointError if the
    folder holds a model, cannot be written, or a weight is not finite.
    """
    config = _written_config(model)
    parameters = {p.name: _stored(p, otherwise) for p in layout.parameters(config)}
    by_tensor = {
        spec.name: parameter for parameter in parameters.values() for spec in parameter.stored()
    }
    latest: tuple[str, QuantizedTensor] | None = None

    def pieces(spec: TensorSpec) -> Iterable[Tensor]:
        nonlocal latest
        parameter = by_tensor[spec.name]
        if parameter.format is None:
            return (_plain(model, parameter),)
        # Elements and scales are asked for one after the other: round once for both.
        if latest is None or latest[0] != parameter.name:
            latest = parameter.name, _quantized(model, parameter)
        return (latest[1].data if spec.name == parameter.name else latest[1].scale,)

    write_checkpoint(
        folder,
        file_plan(config, otherwise),
        pieces,
        config.to_released(),
        overwrite=overwrite,
        progress=progress,
    )


def _written_config(model: Transformer) -> ModelConfig:
    """The model's configuration, saying how its tensors are going to be stored."""
    drafting = model.mtp or model.config.draft_stages
    config = model.config if drafting else layout.without_mtp(model.config)
    return config if config.expert_dtype is not None else replace(config, expert_dtype="fp4")


def _finite(parameter: Parameter, value: Weight) -> Weight:
    if isinstance(value, Tensor) and value.is_floating_point() and not is_finite(value):
        raise CheckpointError(
            f"{parameter.name} holds NaN or infinity", "the training diverged; nothing was written"
        )
    return value


def _plain(model: Transformer, parameter: Parameter) -> Tensor:
    value = _finite(parameter, get_weight(model, parameter.name))
    assert isinstance(value, Tensor) and value.shape == parameter.shape, parameter
    return value.detach().cpu().to(parameter.dtype)


def _quantized(model: Transformer, parameter: Parameter) -> QuantizedTensor:
    assert parameter.format is not None
    factor = get_factor(model, parameter.name)
    if isinstance(factor, Adapted):
        _finite(parameter, factor.merged())
        return factor.rounded(parameter.format)
    value = _finite(parameter, factor)
    if isinstance(value, QuantizedTensor):
        if value.format == parameter.format:
            return value.to("cpu")
        value = value.dequantize()
    return quantize(value.cpu(), parameter.format)


def export_transformers(
    model: Transformer,
    folder: Path | str,
    *,
    dtype: torch.dtype = torch.float32,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> None:
    """Write `model` in the layout of transformers' `DeepseekV4ForCausalLM`, dequantised.

    Matrices are of `dtype` (float32 or bfloat16, which holds FP8 and FP4 weights exactly). The
    MTP block is left out: transformers does not have it. Errors as for `export_released`.
    """
    config = layout.without_mtp(model.config)
    values = config.to_transformers() | {"torch_dtype": str(dtype).removeprefix("torch.")}
    shapes: dict[str, list[Parameter]] = {}
    for parameter in layout.parameters(config):
        if not parameter.expert:
            shapes[names.to_transformers(parameter.name)] = [parameter]
    by_name = {parameter.name: parameter for parameter in layout.parameters(config)}
    for layer in range(config.num_hidden_layers):
        for stack, matrices in names.stacked_experts(layer).items():
            shapes[stack] = [
                by_name[f"layers.{layer}.ffn.experts.{expert}.{matrix}.weight"]
                for expert in range(config.n_routed_experts)
                for matrix in matrices
            ]

    def pieces(spec: TensorSpec) -> Iterable[Tensor]:
        for parameter in shapes[spec.name]:
            value = _finite(parameter, get_weight(model, parameter.name))
            dense = value.dequantize() if isinstance(value, QuantizedTensor) else value
            yield dense.detach().cpu().to(spec.dtype)

    specs = [_joined(config, name, parts, dtype) for name, parts in shapes.items()]
    write_checkpoint(
        folder, _by_size(specs), pieces, values, overwrite=overwrite, progress=progress
    )


def _joined(
    config: ModelConfig, name: str, parts: list[Parameter], dtype: torch.dtype
) -> TensorSpec:
    """The tensor that holds one weight, or the stacked matrices of all experts."""
    first = parts[0]
    kept = not first.dtype.is_floating_point or first.dtype == layout.F32
    shape = first.shape
    if first.expert:
        experts = config.n_routed_experts
        shape = (experts, len(parts) // experts * shape[0], shape[1])
    return TensorSpec(name, shape, first.dtype if kept else dtype)


def _by_size(specs: list[TensorSpec]) -> list[list[TensorSpec]]:
    """Tensors in files of about TRANSFORMERS_SHARD_BYTES."""
    files: list[list[TensorSpec]] = [[]]
    size = 0
    for spec in specs:
        if files[-1] and size + spec.nbytes > TRANSFORMERS_SHARD_BYTES:
            files.append([])
            size = 0
        files[-1].append(spec)
        size += spec.nbytes
    return files
