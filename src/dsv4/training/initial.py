"""The weights a run starts from: random ones, a model folder's, or those of another run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from dsv4 import checkpoint
from dsv4.checkpoint.layout import TOKEN_MAP
from dsv4.config import ModelConfig
from dsv4.encoding.tokenizer import Tokenizer
from dsv4.engram import EngramConfig
from dsv4.errors import CheckpointError, UsageError
from dsv4.model.retrofit import set_token_map
from dsv4.model.transformer import Transformer
from dsv4.model.weights import init_weights, weights
from dsv4.numerics.quantized import QuantizedTensor, settled
from dsv4.training.checkpoint import is_checkpoint, read_engram, read_weights
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
    canonical: Sequence[int] = (),
) -> Transformer:
    """A model to train, in float32: random weights, those of `source` in their place.

    source: a model folder in the released or the transformers layout, whose quantised weights are
    dequantised, or a checkpoint of a run. settle: the model is going to be rounded to the formats
    it was stored in, so begin with weights that round to what was stored and stay there
    (`numerics.quantized.settled`). canonical: the canonical ids of the tokens, for an Engram that
    starts anew; one of `source` keeps its own. Engram modules and MTP blocks that it lacks keep
    their initial weights. Raises CheckpointError if it lacks anything else, has other shapes or
    another Engram, UsageError if it is no such folder.
    """
    model = Transformer(config)
    init_weights(model, seed)
    if source is None:
        if canonical and config.engram is not None:
            set_token_map(model, canonical)
        return model
    _same_hashes(source, config)
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
    if TOKEN_MAP in fresh and canonical:
        set_token_map(model, canonical)
    if fresh:
        status(f"{len(fresh)} tensors that {source} lacks start anew, such as {min(fresh)}")
    return model


def inherited(config: ModelConfig, source: Path | None) -> ModelConfig | None:
    """`config` with the Engram that a folder to start from has, if it has one: its multipliers
    belong to its tables, whatever the tokenizer at hand would give. Raises CheckpointError where
    they differ in more."""
    known = _engram(source) if source is not None else None
    if known is None or config.engram is None:
        return None
    fitted = replace(
        config.engram,
        compressed_vocab_size=known.compressed_vocab_size,
        multipliers=known.multipliers,
    )
    made = replace(config, engram=fitted)
    assert source is not None
    _same_hashes(source, made)
    return made


def _same_hashes(source: Path, config: ModelConfig) -> None:
    known = _engram(source)
    if known is not None and config.engram is not None and known != config.engram:
        raise CheckpointError(
            f"{source} has an Engram that hashes otherwise than that of the model to train",
            "leave out the preset to train the folder's own architecture",
        )


def _engram(source: Path) -> EngramConfig | None:
    if is_checkpoint(source):
        return read_engram(source)
    return checkpoint.read_config(source).engram if source.is_dir() else None


def _read(source: Path, settle: bool) -> Iterator[tuple[str, Tensor]]:
    """(name, value) of every weight of a folder."""
    if is_checkpoint(source):
        yield from read_weights(source).items()
        return
    if not source.is_dir():
        raise UsageError(f"no folder {source}", "a model folder, or a checkpoint of a run")
    model = checkpoint.load(source, canonical_ids=Tokenizer.canonical_ids_of(source))
    for name, value in weights(model):
        if isinstance(value, QuantizedTensor):
            yield name, settled(value) if settle else value.dequantize()
        else:
            yield name, value
