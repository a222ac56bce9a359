"""Batches of documents: padded, never packed, in an order that can be resumed.

V4 packs documents and separates them with a sample-level attention mask. Here a batch row holds
one document (or a slice of a long one) from its position 0, padded at the end: rows can not see
each other, compression blocks start where the document starts, and because the model is causal
the padding changes nothing before it. Rows of a batch have similar length, so little is padded.

Dimensions: B rows, T positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dsv4.data.shards import Shard
from dsv4.errors import DataError

_SHORTEST_ROW = 64
_SHORTEST_TAIL = 16  # the last slice of a cut document is dropped below this length


@dataclass(frozen=True)
class Batch:
    """ids_BT int64, padded with `pad` after length_B tokens of each row.

    learned_BT bool: the loss mask, true for tokens that are to be predicted; false in the padding.
    None: all tokens are.
    """

    ids_BT: Tensor
    length_B: Tensor
    learned_BT: Tensor | None = None

    @property
    def tokens(self) -> int:
        """Real tokens, without padding."""
        return int(self.length_B.sum())

    def valid_BT(self, ahead: int = 0) -> Tensor:
        """True where the position `ahead` tokens later is still a real token of the row."""
        place = torch.arange(self.ids_BT.shape[1], device=self.ids_BT.device)
        return place[None, :] + ahead < self.length_B[:, None]

    def predicted_BT(self, ahead: int) -> Tensor:
        """True where the token `ahead` positions later is real and to be learned."""
        valid_BT = self.valid_BT(ahead)
        if self.learned_BT is None:
            return valid_BT
        return valid_BT & torch.roll(self.learned_BT, -ahead, dims=1)

    def to(self, device: torch.device) -> Batch:
        """The same batch on a device."""
        learned_BT = None if self.learned_BT is None else self.learned_BT.to(device)
        return Batch(self.ids_BT.to(device), self.length_B.to(device), learned_BT)


@dataclass(frozen=True)
class Position:
    """Where in the stream of batches a run is: the next batch is `index` of `epoch`."""

    epoch: int = 0
    index: int = 0


@dataclass(frozen=True)
class Mix:
    """Shards and how often each of their documents is shown per epoch.

    masked: batches carry the loss masks of the shards; otherwise every token is learned.
    """

    shards: tuple[Shard, ...]
    epochs: tuple[float, ...]
    masked: bool = False


class Batches:
    """The endless, deterministic sequence of batches of a mix.

    The order depends on nothing but the constructor's arguments, so (seed, Position) names a
    batch: that is all a resumed run needs.
    """

    def __init__(
        self, mix: Mix, *, batch_tokens: int, max_length: int, seed: int, pad: int = 2
    ) -> None:
        """batch_tokens: rows times positions of one batch, at most (at least one row).

        Raises DataError if the mix has no document of two tokens.
        """
        self._mix, self._seed, self._pad = mix, seed, pad
        self._batch_tokens, self._max_length = batch_tokens, max_length
        self._slices = [_slices(shard, max_length) for shard in mix.shards]
        self._plan = lru_cache(maxsize=1)(self._make_plan)
        if not self._plan(0):
            raise DataError("the training mix is empty", "check the corpora and their epochs")

    def per_epoch(self, epoch: int = 0) -> int:
        """How many batches an epoch has."""
        return len(self._plan(epoch))

    def __getitem__(self, position: Position) -> Batch:
        """The batch at a position of the stream."""
        rows = self._plan(position.epoch)[position.index]
        length = rows[:, 2]
        width = int(_widths(length, self._max_length).max())
        ids = np.full((len(rows), width), self._pad, np.int64)
        for row, (source, start, count) in enumerate(rows):
            ids[row, :count] = self._mix.shards[source].tokens[start : start + count]
        batch = Batch(torch.from_numpy(ids), torch.from_numpy(length.copy()))
        if not self._mix.masked:
            return batch
        learned = np.zeros((len(rows), width), np.bool_)
        for row, (source, start, count) in enumerate(rows):
            learned[row, :count] = self._mix.shards[source].mask(start, count)
        return replace(batch, learned_BT=torch.from_numpy(learned))

    def next(self, position: Position) -> tuple[Batch, Position]:
        """The batch at `position` and the position after it."""
        if position.index >= self.per_epoch(position.epoch):
            position = Position(position.epoch + 1, 0)
        return self[position], Position(position.epoch, position.index + 1)

    def _make_plan(self, epoch: int) -> list[npt.NDArray[np.int64]]:
        """Batches of an epoch as arrays of rows (source, start, length), shuffled."""
        draw = np.random.default_rng([self._seed, epoch])
        chosen = []
        for source, (slices, times) in enumerate(zip(self._slices, self._mix.epochs, strict=True)):
            whole, part = int(times), times - int(times)
            picked = [slices] * whole
            if part:
                count = round(part * len(slices))
                picked.append(slices[draw.permutation(len(slices))[:count]])
            for rows in picked:
                chosen.append(np.insert(rows, 0, source, axis=1))
        if not chosen:
            return []
        rows = np.concatenate(chosen)
        rows = rows[draw.permutation(len(rows))]
        buckets = _widths(rows[:, 2], self._max_length)
        plan, carried = [], rows[:0]
        for width in np.unique(buckets):
            waiting = np.concatenate([carried, rows[buckets == width]])
            size = max(1, self._batch_tokens // int(width))
            full = len(waiting) // size * size
            plan += [waiting[at : at + size] for at in range(0, full, size)]
            carried = waiting[full:]  # joins the next longer bucket, at the price of padding
        if len(carried):
            plan.append(carried)
        return [plan[at] for at in draw.permutation(len(plan))]


def _widths(length: npt.NDArray[np.int64], max_length: int) -> npt.NDArray[np.int64]:
    """Padded row lengths: powers of two and, from 384 on, halfway between them.

    Few, so that a run meets few shapes, and multiples of 128 where attention is computed in blocks.
    """
    powers = 1 << np.ceil(np.log2(np.maximum(length, _SHORTEST_ROW))).astype(np.int64)
    halfway = powers * 3 // 4
    fits = (length <= halfway) & (halfway >= 384)
    return np.minimum(np.where(fits, halfway, powers), max_length)


def _slices(shard: Shard, max_length: int) -> npt.NDArray[np.int64]:
    """Rows (start, length) that cut every document into pieces of at most max_length tokens.

    A piece begins with the last token of the piece before, as context only, so that every token
    of a document is predicted exactly once.
    """
    pieces: list[tuple[int, int]] = []
    bounds: Sequence[int] = shard.offsets.tolist()
    for begin, end in pairwise(bounds):
        for start in range(begin, end - 1, max_length - 1):
            length = min(max_length, end - start)
            if start == begin or length >= _SHORTEST_TAIL:
                pieces.append((start, length))
    return np.array(pieces, np.int64).reshape(-1, 2)
