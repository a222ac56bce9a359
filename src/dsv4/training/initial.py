"""The weights a run starts from: random ones, a model folder's, or those of another run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from dsv4 import checkpoint
from dsv4.config import ModelConfig
from dsv4.errors import CheckpointError, UsageError
from dsv4.model.transformer import Transformer
from dsv4.model.weights import init_weights, weights
from dsv4.numerics.quantized import QuantizedTensor, settled
from dsv4.training.checkpoint import is_checkpoint, read_weights
from dsv4.training.metrics import Status

_ADDED = (".engram.", "ngrams.", "mtp.")
"""Parts that a model may have beyond those of the folder it starts from."""


def initial_model(
    config: ModelConfig,
    source: Path | None,
    seed: int,
    status: Status = lambda line: None,
    *,
    settle: bool = False,
) -> Transformer:
    """A model to train, in float32: random weights, those of `source` in their place.

    source: a model folder in the released or the transformers layout, whose quantised weights are
    dequantised, or a checkpoint of a run. settle: the model is going to be rounded to the formats
    it was stored in, so begin with weights that round to what was stored and stay there
    (`numerics.quantized.settled`). Engram modules and MTP blocks that it lacks keep their
    initial weights. Raises CheckpointError if it lacks anything else or has other shapes,
    UsageError if it is no such folder.
    """
    model = Transformer(config)
    init_weights(model, seed)
    if source is None:
        return model
    own = dict(weights(model))
    fresh = set(own)
    for name, value in _read(source, settle):
        tensor = own.get(name)
        if tensor is None:
            raise CheckpointError(
                f"{source} has {name}, which the model to train has not",
                "leave out the preset to train the folder's own architecture",
            )
        assert isinstance(tensor, Tensor)
        if tensor.shape != value.shape:
            raise CheckpointError(
                f"{source}: {name} is {list(value.shape)}, the model to train has "
                f"{list(tensor.shape)}",
                "leave out the preset to train the folder's own architecture",
            )
        with torch.no_grad():
            tensor.copy_(value)
        fresh.discard(name)
    missing = sorted(name for name in fresh if not any(part in name for part in _ADDED))
    if missing:
        raise CheckpointError(f"{source} lacks {', '.join(missing[:3])} of the model to train")
    if fresh:
        status(f"{len(fresh)} tensors that {source} lacks start anew, such as {min(fresh)}")
    return model


def _read(source: Path, settle: bool) -> Iterator[tuple[str, Tensor]]:
    """(name, value) of every weight of a folder."""
    if is_checkpoint(source):
        yield from read_weights(source).items()
        return
    if not source.is_dir():
        raise UsageError(f"no folder {source}", "a model folder, or a checkpoint of a run")
    for name, value in weights(checkpoint.load(source)):
        if isinstance(value, QuantizedTensor):
            yield name, settled(value) if settle else value.dequantize()
        else:
            yield name, value
