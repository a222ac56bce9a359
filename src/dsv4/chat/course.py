"""Text between control tokens, held to what may stand there.

A control token never is part of a text token. So an answer with markup is a chain of segments,
each of which ends with a certain control token, and what may follow is decided there.

V: vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from dsv4.chat.vocabulary import Vocabulary

if TYPE_CHECKING:
    import xgrammar


@dataclass(frozen=True, slots=True)
class Segment:
    """The text `head`, then what `body` describes (None: nothing), then the control token `end`.

    `then` gives the segments of which one follows; there are none after the last.
    """

    head: bytes
    body: xgrammar.CompiledGrammar | None
    end: int
    then: Callable[[], Sequence[Segment]] = tuple


class Course:
    """Holds an answer to one of several segments, and to what follows it. A Constraint."""

    def __init__(self, segments: Sequence[Segment], vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._cursors = self._begin(segments)

    def allowed(self) -> Tensor:
        """Bools `[V]`: what at least one of the segments allows."""
        mask_V = torch.zeros(self._vocabulary.size, dtype=torch.bool)
        for cursor in self._cursors:
            cursor.allow(mask_V)
        return mask_V

    def accept(self, token: int) -> None:
        """`token` was drawn, one that was allowed."""
        data = self._vocabulary.bytes_of(token)
        if data:
            fits = self.take(data)
            assert fits, token
            return
        ended = [c for c in self._cursors if c.segment.end == token and c.complete]
        assert ended, token
        self._cursors = self._begin([s for cursor in ended for s in cursor.segment.then()])

    def take(self, data: bytes) -> bool:
        """Go on with a text; False if it does not fit."""
        self._cursors = [cursor for cursor in self._cursors if cursor.take(data)]
        return bool(self._cursors)

    def _begin(self, segments: Sequence[Segment]) -> list[_Cursor]:
        return [_Cursor(segment, self._vocabulary) for segment in segments]


class _Cursor:
    """How much of a segment is there."""

    def __init__(self, segment: Segment, vocabulary: Vocabulary) -> None:
        self.segment = segment
        self._vocabulary = vocabulary
        self._head = segment.head
        self._matcher: xgrammar.GrammarMatcher | None = None

    @property
    def complete(self) -> bool:
        """Whether the segment may end here."""
        return not self._head and (self.segment.body is None or self._matching().is_completed())

    def allow(self, mask_V: Tensor) -> None:
        """Set what may come next."""
        if self._head:
            mask_V[self._vocabulary.starts(self._head)] = True
            if self.segment.body is not None:
                for rest, ids in self._vocabulary.beyond(self._head):
                    if self._fits(rest):
                        mask_V[ids] = True
            return
        if self.segment.body is not None:
            mask_V |= self._allowed()
        if self.complete:
            mask_V[self.segment.end] = True

    def take(self, data: bytes) -> bool:
        """Go on with a text; False if it does not fit."""
        length = min(len(self._head), len(data))
        if self._head[:length] != data[:length]:
            return False
        self._head, data = self._head[length:], data[length:]
        if not data:
            return True
        return self.segment.body is not None and self._matching().accept_string(data)

    def _matching(self) -> xgrammar.GrammarMatcher:
        if self._matcher is None:
            from xgrammar import GrammarMatcher

            assert self.segment.body is not None
            self._matcher = GrammarMatcher(self.segment.body)
        return self._matcher

    def _fits(self, start: bytes) -> bool:
        """Whether the body may begin with these bytes."""
        matcher = self._matching()
        fits = matcher.accept_string(start)
        if fits:
            matcher.rollback(1)
        return fits

    def _allowed(self) -> Tensor:
        """Bools `[V]`: text that goes on with the body."""
        size = self._vocabulary.size
        words = torch.empty(1, -(-size // 32), dtype=torch.int32)
        self._matching().fill_next_token_bitmask(words)
        bits = np.unpackbits(words.numpy().view(np.uint8), count=size, bitorder="little")
        mask_V = torch.from_numpy(bits.view(np.bool_))
        mask_V[self._vocabulary.eos_id] = False  # it says that the grammar is complete
        return mask_V
