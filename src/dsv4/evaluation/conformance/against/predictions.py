"""What an implementation predicts after prefixes of a text, whole or as its likeliest tokens.

Shapes: P positions, K reported tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dsv4.config import ModelConfig
from dsv4.evaluation.conformance import lengths

NONE = -1
"""Stands for a token where fewer than K are reported."""

HELD = 1 << 24
"""Logits that are held of one run: 64 MiB."""


@dataclass(frozen=True, slots=True)
class Predictions:
    """Log-probabilities of the token after `ids[: position + 1]`, for every position.

    `logprobs_PK` float64 belong to `tokens_PK`, in any order, with NONE where there are fewer;
    without `tokens_PK`, K is the vocabulary. `how`: how they were got, in words.
    """

    source: str
    how: str
    ids: tuple[int, ...]
    positions: tuple[int, ...]
    logprobs_PK: Tensor
    tokens_PK: Tensor | None = None


def whole(
    source: str, how: str, ids: Sequence[int], positions: Sequence[int], logits_PV: Tensor
) -> Predictions:
    """Predictions of logits."""
    logprobs_PV = logits_PV.double().log_softmax(-1)
    return Predictions(source, how, tuple(ids), tuple(positions), logprobs_PV)


def likeliest(
    source: str, how: str, ids: Sequence[int], rows: Mapping[int, Mapping[int, float]]
) -> Predictions:
    """Predictions of the tokens that are reported: position -> token -> log-probability."""
    width = max((len(row) for row in rows.values()), default=1)
    tokens_PK = torch.full((len(rows), width), NONE)
    logprobs_PK = torch.full((len(rows), width), -torch.inf, dtype=torch.float64)
    for i, (_, row) in enumerate(sorted(rows.items())):
        tokens_PK[i, : len(row)] = torch.tensor(list(row), dtype=torch.long)
        logprobs_PK[i, : len(row)] = torch.tensor(list(row.values()), dtype=torch.float64)
    return Predictions(source, how, tuple(ids), tuple(sorted(rows)), logprobs_PK, tokens_PK)


def first_rows(other: Predictions, count: int) -> Predictions:
    """The same at its first places alone."""
    tokens_PK = other.tokens_PK
    return replace(
        other,
        positions=other.positions[:count],
        logprobs_PK=other.logprobs_PK[:count],
        tokens_PK=None if tokens_PK is None else tokens_PK[:count],
    )


def chosen_positions(config: ModelConfig, length: int) -> list[int]:
    """Which positions of a prompt are compared where all are at hand: all of them, or what of a
    large vocabulary fits into memory, with the lengths at which something begins among them."""
    count = max(1, HELD // config.vocab_size)
    if length <= count:
        return list(range(length))
    edges = {size - 1 for size in lengths.prefixes(config, length)}
    step = max(1, length // max(1, count - len(edges)))
    return sorted(edges | set(range(step - 1, length, step)))
