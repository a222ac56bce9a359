"""Weight folders: which tensors there are, checked loading, export and random checkpoints."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from dsv4 import config as _configuration
from dsv4.checkpoint.export import export_released, export_transformers
from dsv4.checkpoint.folder import INDEX_NAME
from dsv4.checkpoint.identity import identity
from dsv4.checkpoint.layout import first_layers
from dsv4.checkpoint.loading import LoadReport, load, load_with_report
from dsv4.checkpoint.plan import Plan, make_plan
from dsv4.checkpoint.synthetic import synth
from dsv4.config import ModelConfig

__all__ = [
    "LoadReport",
    "Plan",
    "export_released",
    "export_transformers",
    "first_layers",
    "identity",
    "load",
    "load_with_report",
    "make_plan",
    "read_config",
    "synth",
]


def read_config(folder: Path | str) -> ModelConfig:
    """The configuration of a folder, with its tensors' formats if it holds weights.

    A folder with config.json alone will do. Raises ConfigError, and CheckpointError if there are
    weights that do not fit.
    """
    folder = Path(folder)
    if (folder / INDEX_NAME).exists() or any(folder.glob("model*.safetensors")):
        return make_plan(folder).config
    config = _configuration.load(folder)
    # Draft stages are never loaded, so nothing is to count an MTP block in their place.
    return replace(config, num_nextn_predict_layers=0) if config.draft_stages else config
