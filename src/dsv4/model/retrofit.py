"""Giving a model an Engram: the token map, and memories that at first say nothing."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import nn

from dsv4.config import ModelConfig
from dsv4.engram import EngramConfig
from dsv4.errors import ConfigError, UsageError
from dsv4.model.transformer import Transformer
from dsv4.model.weights import init_engram, set_weight, weights


def fit_engram(config: ModelConfig, canonical_ids: Sequence[int]) -> ModelConfig:
    """The same configuration with an Engram for the vocabulary of these canonical ids; multipliers
    that belong to another number of them are drawn again."""
    engram = config.engram
    if engram is None or engram.compressed_vocab_size == (count := max(canonical_ids) + 1):
        return config
    fitted = dataclasses.replace(engram, compressed_vocab_size=count, multipliers=())
    return dataclasses.replace(config, engram=fitted)


def set_token_map(model: Transformer, canonical_ids: Sequence[int]) -> None:
    """Let the hashes of a model count tokens as one that have the same canonical id.

    `canonical_ids`: one for every token (`Tokenizer.canonical_ids`). Raises ConfigError unless
    there are exactly as many different ones as the configuration says: with those of another
    vocabulary every n-gram would find what another one has stored.
    """
    engram = model.config.engram
    if engram is None:
        raise UsageError("this model has no Engram")
    tokens, different = len(canonical_ids), len(set(canonical_ids))
    expected = engram.compressed_vocab_size
    if tokens != model.config.vocab_size or different != expected:
        raise ConfigError(
            f"the tokenizer gives {tokens} tokens {different} canonical ids, the model has "
            f"{model.config.vocab_size} tokens and engram_compressed_vocab_size {expected}",
            "the tokenizer must be the one the Engram was trained with",
        )
    if not 0 <= min(canonical_ids) <= max(canonical_ids) < expected:
        raise ConfigError(f"canonical ids must lie in 0..{expected - 1}")
    set_weight(model, "ngrams.token_map", torch.tensor(canonical_ids))


def add_engram(
    model: Transformer, engram: EngramConfig, canonical_ids: Sequence[int], seed: int = 0
) -> Transformer:
    """`model` with memories that it did not have, and exactly its logits.

    The tables are zero, so nothing is added until they are trained; they have a gradient, through
    the value. All other weights are shared with `model`, not copied. `engram` is fitted to the
    number of canonical ids. Raises UsageError if the model has an Engram, ConfigError if its
    configuration cannot have this one.
    """
    if model.config.engram is not None:
        raise UsageError("this model has an Engram already", "train it, or start from another")
    config = fit_engram(dataclasses.replace(model.config, engram=engram), canonical_ids)
    with torch.device("meta"):
        made = Transformer(config, model.numerics)
    for name, value in weights(model):
        set_weight(made, name, value)
        if isinstance(value, nn.Parameter):
            made.get_parameter(name).requires_grad_(value.requires_grad)
    assert made.ngrams is not None
    made.ngrams.to_empty(device="cpu")
    rng = torch.Generator().manual_seed(seed)
    for memory in made.engrams().values():
        init_engram(memory.to_empty(device="cpu"), config.initializer_range, rng)
    set_token_map(made, canonical_ids)
    return made.train(model.training)
