"""Checkpoints of a run in progress: safetensors and JSON, written whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from dsv4.errors import CheckpointError
from dsv4.training.objective import Objective
from dsv4.training.optimizer import Optimizer

_KEEP = 2


def save(
    folder: Path,
    step: int,
    model: nn.Module,
    optimizer: Optimizer,
    objective: Objective[Any],
    state: Mapping[str, Any],
) -> Path:
    """Write `folder/step-N` atomically and drop all but the newest two checkpoints.

    It holds the weights, the state of optimizer and objective, torch's random state, and `state`
    as JSON.
    """
    final = folder / f"step-{step:07d}"
    part = folder / f"{final.name}.part"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    _write(part / "model.safetensors", model.state_dict())
    _write(part / "optimizer.safetensors", optimizer.state())
    extra = {"torch_rng": torch.get_rng_state()}
    _write(part / "objective.safetensors", objective.state() | extra)
    with (part / "state.json").open("w", encoding="utf-8") as file:
        json.dump({"step": step, **state}, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    if final.exists():
        shutil.rmtree(final)
    os.replace(part, final)
    for old in find(folder)[:-_KEEP]:
        shutil.rmtree(old)
    return final


def find(folder: Path) -> list[Path]:
    """The complete checkpoints of a run, oldest first."""
    return sorted(p for p in folder.glob("step-*") if p.suffix != ".part" and p.is_dir())


def restore(
    path: Path, model: nn.Module, optimizer: Optimizer, objective: Objective[Any]
) -> dict[str, Any]:
    """Load a checkpoint into everything `save` took; returns its JSON state.

    Raises CheckpointError if a file is missing, damaged or of another model.
    """
    try:
        weights = load_file(path / "model.safetensors")
        moments = load_file(path / "optimizer.safetensors")
        extra = load_file(path / "objective.safetensors")
        state: dict[str, Any] = json.loads((path / "state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, SafetensorError) as error:
        hint = "delete that folder to resume from the checkpoint before it"
        raise CheckpointError(f"{path}: {error}", hint) from error
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise CheckpointError(f"{path} holds the weights of another model") from error
    optimizer.restore(moments)
    torch.set_rng_state(extra.pop("torch_rng"))
    objective.restore(extra)
    return state


def _write(path: Path, tensors: Mapping[str, Tensor]) -> None:
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    with path.open("rb") as file:
        os.fsync(file.fileno())
