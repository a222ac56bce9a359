"""From a checked folder to a model whose weights stay in their mapped files."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import torch

from dsv4.checkpoint.folder import Reader
from dsv4.checkpoint.layout import F32
from dsv4.checkpoint.plan import Layout, Plan, Source, make_plan
from dsv4.checkpoint.values import check_values
from dsv4.config import ModelConfig
from dsv4.model.transformer import Transformer
from dsv4.model.weights import set_weight
from dsv4.numerics.policy import EXACT, Numerics
from dsv4.numerics.quantized import QuantizedTensor, Weight

logger = logging.getLogger("dsv4.checkpoint")


@dataclass(frozen=True, slots=True)
class LoadReport:
    """What was loaded. `notes`: sentences worth showing to the person who asked for it."""

    config: ModelConfig
    layout: Layout
    tensors: int
    nbytes: int
    notes: tuple[str, ...]


def load(folder: Path | str, numerics: Numerics = EXACT) -> Transformer:
    """A model with the weights of a folder in the released or the transformers layout.

    Weights stay where they are: pages of the files are read when a layer first needs them.
    Raises ConfigError and CheckpointError before anything is built. What there is to say about
    the folder goes to the `dsv4.checkpoint` log as warnings.
    """
    model, report = load_with_report(folder, numerics)
    for note in report.notes:
        logger.warning("%s: %s", folder, note)
    return model


def load_with_report(
    folder: Path | str, numerics: Numerics = EXACT, *, check_all_values: bool | None = None
) -> tuple[Transformer, LoadReport]:
    """Like `load`, with a report instead of log lines.

    `check_all_values`: look for NaN in every tensor (True), only in small dense ones and in the
    block scales of dense matrices (False), or in `values.READ_BYTES` more than those (None).
    """
    plan = make_plan(folder)
    notes = plan.notes + check_values(plan, check_all_values)
    model = _build(plan, numerics)
    stored = sum(2 if source.scale is not None else 1 for source in plan.sources)
    return model, LoadReport(plan.config, plan.layout, stored, plan.nbytes, notes)


def _build(plan: Plan, numerics: Numerics) -> Transformer:
    with torch.device("meta"):
        model = Transformer(plan.config, numerics)
    reader = Reader()
    for source in plan.sources:
        set_weight(model, source.parameter.name, _value(source, reader))
    return model.eval()


def _value(source: Source, reader: Reader) -> Weight:
    data = reader.tensor(source.data)
    if source.format is not None:
        assert source.scale is not None
        return QuantizedTensor(data, reader.tensor(source.scale), source.format)
    if not data.is_floating_point():
        return data.to(torch.int64)
    # What the layout keeps in float32 is small and used as such.
    return data.to(F32) if source.parameter.dtype == F32 else data
