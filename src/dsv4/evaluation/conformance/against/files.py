"""Predictions from a file: safetensors or npz.

| tensor | |
|---|---|
| `tokens` [T] | the ids, as integers |
| `positions` [P] | rows are about the token after each of these; 0 to T - 1 if it is missing |
| `logits` [P, V] | logits (or log-probabilities) of the whole vocabulary |
| `top_tokens`, `top_logprobs` [P, K] | or of the likeliest tokens; -1 where there are fewer |
"""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from dsv4.config import ModelConfig
from dsv4.errors import UsageError
from dsv4.evaluation.conformance.against.predictions import (
    NONE,
    Predictions,
    chosen_positions,
    whole,
)

FORM = "tokens [T], then logits [P, V] or top_tokens and top_logprobs [P, K]; see docs/verify.md"
SUFFIXES = (".safetensors", ".npz")


def read_file(path: Path, config: ModelConfig) -> Predictions:
    """The predictions of a file. Raises UsageError for one that holds something else."""
    tensors = _read(path)
    ids = _integers(path, tensors, "tokens")
    T = len(ids)
    if max(ids) >= config.vocab_size or min(ids) < 0:
        raise UsageError(
            f"{path} has tokens that this model does not", f"0 to {config.vocab_size - 1}"
        )
    given = _integers(path, tensors, "positions") if "positions" in tensors else list(range(T))
    if given != sorted(set(given)) or given[0] < 0 or given[-1] >= T:
        raise UsageError(f"{path}: positions are not rising from 0 to {T - 1}", FORM)
    if "logits" in tensors:
        logits_PV = _rows(path, tensors, "logits", len(given))
        if logits_PV.shape[1] != config.vocab_size:
            raise UsageError(
                f"{path} has logits of {logits_PV.shape[1]} tokens, this model {config.vocab_size}",
                "it is of another model, or padded",
            )
        wanted = set(chosen_positions(config, T)) if "positions" not in tensors else set(given)
        rows = [row for row, position in enumerate(given) if position in wanted]
        positions = [given[row] for row in rows]
        return whole(str(path), f"{len(rows)} rows of logits", ids, positions, logits_PV[rows])
    tokens_PK = _rows(path, tensors, "top_tokens", len(given)).long()
    logprobs_PK = _rows(path, tensors, "top_logprobs", len(given)).double()
    if tokens_PK.shape != logprobs_PK.shape or tokens_PK.shape[1] == 0:
        raise UsageError(f"{path}: top_tokens and top_logprobs differ in shape", FORM)
    if int(tokens_PK.max()) >= config.vocab_size or int(tokens_PK.min()) < NONE:
        raise UsageError(f"{path}: top_tokens has ids that this model does not", FORM)
    how = f"{len(given)} rows of the {tokens_PK.shape[1]} likeliest tokens"
    return Predictions(str(path), how, tuple(ids), tuple(given), logprobs_PK, tokens_PK)


def _read(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                return {name: torch.from_numpy(arrays[name]) for name in arrays.files}
        return load_file(path)
    except (OSError, ValueError, TypeError, SafetensorError, zipfile.BadZipFile) as error:
        raise UsageError(f"cannot read {path}: {error}", FORM) from error


def _integers(path: Path, tensors: dict[str, Tensor], name: str) -> list[int]:
    tensor = tensors.get(name)
    if tensor is None or tensor.dim() != 1 or tensor.is_floating_point() or not tensor.numel():
        raise UsageError(f"{path} has no integers called {name}", FORM)
    return [int(value) for value in tensor.tolist()]


def _rows(path: Path, tensors: dict[str, Tensor], name: str, count: int) -> Tensor:
    tensor = tensors.get(name)
    if tensor is None or tensor.dim() != 2 or len(tensor) != count:
        shape = "nothing" if tensor is None else list(tensor.shape)
        raise UsageError(f"{path}: {name} is {shape}, not [{count}, ...]", FORM)
    if bool(tensor.isnan().any()):
        raise UsageError(f"{path}: {name} has NaN", "that implementation is broken altogether")
    return tensor
