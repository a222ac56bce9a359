"""What loading a folder would do, checked completely before anything is built.

A plan pairs every weight of the model with the tensor that holds it. Making one reads headers
only; a folder that lacks a tensor, or has one too many or of the wrong kind, never gets further.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from dsv4 import config as configuration
from dsv4.checkpoint import layout, names
from dsv4.checkpoint.folder import DTYPES, Stored, listing, read_stored
from dsv4.checkpoint.layout import Storage
from dsv4.config import ModelConfig
from dsv4.errors import CheckpointError
from dsv4.numerics.quantized import FP4, FP8, FP8_32, FP8_F32, FP8_ROWS, Format

Layout = Literal["released", "transformers"]

_FLOATS = ("BF16", "F32", "F16")
_ENOUGH_PROBLEMS = 1000

MAX_COPIED_BYTES = 256 << 20
"""Tensors that cannot be used where they are in their file may have this size together."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where a weight comes from: its tensor, and its scales if it is stored in `format`."""

    parameter: layout.Parameter
    data: Stored
    scale: Stored | None = None
    format: Format | None = None

    @property
    def nbytes(self) -> int:
        """Stored bytes, elements and scales."""
        return self.data.nbytes + (self.scale.nbytes if self.scale is not None else 0)

    @property
    def storage(self) -> Storage:
        """How it is stored."""
        return self.format if self.format is not None else DTYPES[self.data.dtype]


@dataclass(frozen=True, slots=True)
class Plan:
    """A checked folder. `config` is what the tensors say where config.json errs or is silent.

    `notes` are sentences for the person who loads the model (say, that draft stages are left
    out); `nbytes` counts the stored bytes of all sources.
    """

    folder: Path
    config: ModelConfig
    layout: Layout
    sources: tuple[Source, ...]
    notes: tuple[str, ...]
    nbytes: int

    @property
    def lacks_token_map(self) -> bool:
        """Whether canonical ids for its Engram are to come from the tokenizer, as with V4.1."""
        stored = any(source.parameter.name == layout.TOKEN_MAP for source in self.sources)
        return self.config.engram is not None and not stored

    @property
    def otherwise(self) -> dict[str, Storage]:
        """How weights are stored that a folder in the released layout does not store as released;
        the transformers layout has no such ones."""
        if self.layout != "released":
            return {}
        return {
            source.parameter.name: source.storage
            for source in self.sources
            if source.storage != (source.parameter.format or source.parameter.dtype)
        }


@dataclass(slots=True)
class _Problems:
    """Everything wrong with a folder, to be told at once."""

    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def enough(self) -> bool:
        return len(self.missing) + len(self.wrong) >= _ENOUGH_PROBLEMS

    def raise_any(self, folder: Path) -> None:
        parts = []
        more = "at least " if self.enough() else ""
        if self.missing:
            parts.append(f"missing {more}{listing(self.missing, 'tensor')}")
        if self.wrong:
            parts.append(f"mis-shaped or of a wrong type {more}{listing(self.wrong, 'tensor')}")
        if self.unexpected and not self.enough():
            parts.append(f"unexpected {listing(self.unexpected, 'tensor')}")
        if parts:
            raise CheckpointError(
                f"{folder} does not fit its config.json: {'; '.join(parts)}",
                "config.json and weights must be of the same model, completely downloaded",
            )


def make_plan(folder: Path | str) -> Plan:
    """Check a folder of either layout against its config.json.

    Raises ConfigError for a bad configuration and CheckpointError, listing every problem, for
    weights that are damaged, missing, unexpected, mis-shaped or of a wrong type.
    """
    folder = Path(folder)
    config = configuration.load(folder)
    found = read_stored(folder)
    theirs = any(name.startswith("model.") for name in found)
    style: Layout = "transformers" if theirs else "released"
    problems = _Problems()
    if style == "transformers":
        found = _unstack(config, found, problems)
    notes: list[str] = []
    config = _adapt_dtypes(config, found, style, notes)
    config, found = _adapt_mtp(config, found, notes)
    sources = _match(config, found, style, problems)
    problems.raise_any(folder)
    _check_places(folder, sources)
    nbytes = sum(
        stored.nbytes
        for source in sources
        for stored in (source.data, source.scale)
        if stored is not None
    )
    return Plan(folder, config, style, tuple(sources), tuple(notes), nbytes)


def _check_places(folder: Path, sources: list[Source]) -> None:
    """Raise CheckpointError if so many tensors lie at odd places that a load would copy much."""
    tensors = (stored for source in sources for stored in (source.data, source.scale) if stored)
    copied = sum(stored.nbytes for stored in tensors if not stored.aligned)
    if copied > MAX_COPIED_BYTES:
        raise CheckpointError(
            f"{folder}: {copied / 2**20:.0f} MiB of tensors do not start at a multiple of their "
            "element size, so they cannot be used in place",
            "write the files again with the safetensors library, which aligns them",
        )


def _candidates(name: str, style: Layout) -> Iterator[str]:
    if style == "transformers":
        yield from names.aliases(name)
    else:
        yield name


def _find(found: Mapping[str, Stored], name: str, style: Layout) -> str | None:
    """The name under which a folder holds the released tensor `name`."""
    return next((other for other in _candidates(name, style) if other in found), None)


def _unstack(
    config: ModelConfig, found: dict[str, Stored], problems: _Problems
) -> dict[str, Stored]:
    """Replace stacked expert tensors by their parts, named as the parts are when not stacked."""
    result = dict(found)
    for layer in range(config.num_hidden_layers):
        for stack, matrices in names.stacked_experts(layer).items():
            for suffix, kind in (("", "weight"), ("_scale_inv", "scale")):
                stored = result.pop(stack + suffix, None)
                if stored is None:
                    continue
                if not _splits(stored, config.n_routed_experts, len(matrices)):
                    problems.wrong.append(
                        f"{stored.name}: {_claim(stored)}, expected [{config.n_routed_experts}, "
                        f"rows of {' above '.join(matrices)}, columns]"
                    )
                    continue
                _, height, width = stored.shape
                shape = (height // len(matrices), width)
                size = stored.nbytes // (config.n_routed_experts * len(matrices))
                offset = stored.offset
                for expert in range(config.n_routed_experts):
                    for matrix in matrices:
                        name = f"model.layers.{layer}.ffn.experts.{expert}.{matrix}.{kind}"
                        result[name] = replace(stored, shape=shape, offset=offset)
                        offset += size
    return result


def _splits(stored: Stored, experts: int, matrices: int) -> bool:
    """Whether a stacked tensor [E, rows, columns] can be cut into its matrices."""
    whole = len(stored.shape) == 3 and stored.shape[0] == experts and 0 not in stored.shape
    return whole and stored.shape[1] % matrices == 0 and stored.dtype in DTYPES


def _adapt_dtypes(
    config: ModelConfig, found: Mapping[str, Stored], style: Layout, notes: list[str]
) -> ModelConfig:
    """Take the formats of experts and scales from the tensors."""
    experts = {"I8": "fp4", "F8_E4M3": "fp8"}
    name = _find(found, "layers.0.ffn.experts.0.w1.weight", style)
    dtype = experts.get(found[name].dtype) if name is not None else None
    if dtype is not None and dtype != config.expert_dtype:
        if config.expert_dtype is not None:
            notes.append(
                f"config.json says expert_dtype {config.expert_dtype}, the tensors are {dtype}: "
                "the tensors count"
            )
        config = replace(config, expert_dtype="fp4" if dtype == "fp4" else "fp8")
    scales = {"F8_E8M0": "e8m0", "F32": "f32"}
    name = _find(found, "layers.0.attn.wq_a.scale", style)
    dtype = scales.get(found[name].dtype) if name is not None else None
    if dtype is not None and dtype != config.scale_dtype:
        config = replace(config, scale_dtype="f32" if dtype == "f32" else "e8m0")
    return config


def _adapt_mtp(
    config: ModelConfig, found: dict[str, Stored], notes: list[str]
) -> tuple[ModelConfig, dict[str, Stored]]:
    """Settle which prediction blocks there are, and leave out tensors of those that are not."""
    without = {name: stored for name, stored in found.items() if not name.startswith("mtp.")}
    present = len(without) < len(found)
    if config.draft_stages:
        if present:
            notes.append(
                f"{config.draft_stages} DSpark draft stages (mtp.*) ignored: this version drafts "
                "with the MTP block only, which this checkpoint does not have"
            )
        # The count of stages stays: the prompts of these checkpoints differ.
        return replace(config, num_nextn_predict_layers=0), without
    if config.num_nextn_predict_layers and not present:
        notes.append("no MTP block in the files: the model runs without one")
    elif present and not config.num_nextn_predict_layers:
        notes.append("mtp.* tensors ignored: config.json says num_nextn_predict_layers 0")
    else:
        return config, found
    return layout.without_mtp(config), without


def _match(
    config: ModelConfig, found: Mapping[str, Stored], style: Layout, problems: _Problems
) -> list[Source]:
    """Pair weights with tensors; what does not fit goes to `problems`.

    Stops early when nearly everything is wrong: a configuration may claim any number of experts.
    """
    sources = []
    used: set[str] = set()
    for parameter in layout.parameters(config):
        if problems.enough():
            return []
        name = _find(found, parameter.name, style)
        if name is None:
            if parameter.name != layout.TOKEN_MAP:
                problems.missing.append(parameter.name)
            continue
        used.add(name)
        data, scale = found[name], None
        form = _format_of(parameter, data)
        if form is not None:
            scale_name = _find(found, parameter.scale_name, style)
            if scale_name is None:
                problems.missing.append(parameter.scale_name)
                continue
            used.add(scale_name)
            scale = found[scale_name]
            if form is FP8 and scale.dtype == "F32":
                form = FP8_F32
            elif form is FP8 and _is_memory(parameter) and scale.shape == _scales(parameter):
                form = FP8_32
        fault = _fault(parameter, form, data, scale)
        if fault:
            problems.wrong.append(fault)
        else:
            sources.append(Source(parameter, data, scale, form))
    problems.unexpected.extend(name for name in found if name not in used)
    return sources


def _format_of(parameter: layout.Parameter, data: Stored) -> Format | None:
    """Format of the tensor that holds `parameter`, or None if it is (or has to be) plain."""
    if data.dtype == "F8_E4M3" and parameter.format is not None:
        return FP8_ROWS if parameter.format is FP8_ROWS else FP8
    if data.dtype == "I8" and parameter.expert and parameter.shape[1] % 2 == 0:
        return FP4
    return None


def _is_memory(parameter: layout.Parameter) -> bool:
    """Whether this is the projection of an Engram, which V4.1 stores in blocks of its own."""
    return parameter.name.endswith("engram.wkv.weight")


def _scales(parameter: layout.Parameter) -> tuple[int, int]:
    out, width = parameter.shape
    return FP8_32.scale_shape((out, width))


def _fault(
    parameter: layout.Parameter, form: Format | None, data: Stored, scale: Stored | None
) -> str | None:
    """What is wrong with the tensors of a weight, if anything."""
    if form is None:
        integers = not parameter.dtype.is_floating_point
        allowed = ("I64", "I32") if integers else _FLOATS
        if data.dtype in allowed and data.shape == parameter.shape:
            return None
        kinds = allowed if parameter.format is None else (*allowed, _stored_name(parameter))
        return _mismatch(data, " or ".join(kinds), parameter.shape)
    assert scale is not None
    out, width = parameter.shape
    for stored, shape, dtype in (
        (data, form.data_shape((out, width)), form.data_dtype),
        (scale, form.scale_shape((out, width)), form.scale),
    ):
        if stored.shape != shape or DTYPES.get(stored.dtype) != dtype:
            wanted = next(name for name, kind in DTYPES.items() if kind == dtype)
            return _mismatch(stored, wanted, shape)
    return None


def _stored_name(parameter: layout.Parameter) -> str:
    assert parameter.format is not None
    dtype = parameter.format.data_dtype
    return next(name for name, kind in DTYPES.items() if kind == dtype)


def _mismatch(stored: Stored, kind: str, shape: tuple[int, ...]) -> str:
    return f"{stored.name}: {_claim(stored)}, expected {kind} {list(shape)}"


def _claim(stored: Stored) -> str:
    return f"{stored.dtype} {list(stored.shape)}"
