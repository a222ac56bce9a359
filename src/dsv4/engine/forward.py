"""Long inputs in pieces: the one loop that feeds known ids to a model.

T: tokens of a piece, V: vocabulary.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from dsv4.errors import CheckpointError, UsageError
from dsv4.model.state import State
from dsv4.model.transformer import Transformer

CHUNK = 512
"""Tokens per forward pass: bounds the memory of a long input, and how long a cancelled request
keeps running."""


def forward(
    model: Transformer,
    ids: Sequence[int],
    state: State | None = None,
    *,
    chunk: int = CHUNK,
    decode: int = 0,
    last_only: bool = False,
) -> Iterator[tuple[int, Tensor]]:
    """Feed `ids`, which follow `state`, piece by piece: (ids done, logits `[T, V]` float32).

    The last `decode` ids are single steps. With `last_only` a piece has the logits of its last
    id alone. Raises UsageError at once for ids that are none of this model, no ids or too many;
    CheckpointError at the piece whose logits are not finite.
    """
    ids = [checked(value, model.config.vocab_size) for value in ids]
    if not ids:
        raise UsageError("no token ids were given", "give at least one")
    state = model.new_state() if state is None else state
    context = model.config.max_position_embeddings
    if state.length + len(ids) > context:
        raise UsageError(
            f"{state.length + len(ids)} tokens exceed the context of {context}", "give fewer"
        )
    state.reserve(state.length + len(ids))
    return _pieces(model, ids, state, chunk, decode, last_only)


def _pieces(
    model: Transformer, ids: list[int], state: State, chunk: int, decode: int, last_only: bool
) -> Iterator[tuple[int, Tensor]]:
    prefill = len(ids) - decode
    stops = [*range(0, prefill, chunk), *range(prefill, len(ids) + 1)]
    for i, (start, stop) in enumerate(pairwise(stops)):
        with torch.no_grad():
            if model.streams_tables and stop < len(ids):
                model.read_ahead(torch.tensor(ids[start : stops[i + 2]]), state, stop - start)
            output = model(torch.tensor([ids[start:stop]]), state, last_only=last_only)
        yield stop, require_finite(output.logits_BTV[0])


def require_finite(logits: Tensor) -> Tensor:
    """The same logits. Raises CheckpointError if there is a NaN or an infinity in them."""
    low, high = torch.aminmax(logits)  # a NaN is both
    if not (math.isfinite(low) and math.isfinite(high)):
        raise CheckpointError(
            "the model computed logits that are not finite",
            "its weights are damaged, or unfit for this numerics policy",
        )
    return logits


def checked(value: object, vocab_size: int) -> int:
    """A token id as int. Raises UsageError if it is none of the vocabulary."""
    try:
        index = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise UsageError(
            f"{value!r:.80} is no token id", f"integers from 0 to {vocab_size - 1}"
        ) from None
    if not 0 <= index < vocab_size:
        raise UsageError(
            f"token id {index} is outside the vocabulary (0 to {vocab_size - 1})",
            "the ids belong to another vocabulary",
        )
    return index
