"""Who runs next, and with how many of its ids: fair between users, in order within one."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator
from collections.abc import Sequence as SequenceOf
from typing import NamedTuple

from dsv4.engine.sequence import Sequence


class Piece(NamedTuple):
    """The next `length` ids of a sequence, to be fed to its state in this step."""

    sequence: Sequence
    length: int


class Queue:
    """Requests that wait to be admitted. The user who was served least comes first."""

    def __init__(self) -> None:
        self._waiting: dict[str, deque[Sequence]] = {}
        self._length = 0  # counted, as other threads ask for it
        self._active: Counter[str] = Counter()
        """Requests by user, waiting or running."""
        self._served: Counter[str] = Counter()
        """Tokens that users got."""

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Sequence]:
        for line in self._waiting.values():
            yield from line

    def add(self, sequence: Sequence) -> None:
        """Put a request at the end of its user's line."""
        user = sequence.user
        if user not in self._active:
            # Who was away has no claim on the time others had meanwhile.
            least = min((self._served[name] for name in self._active), default=0)
            self._served[user] = max(self._served[user], least)
        self._active[user] += 1
        self._waiting.setdefault(user, deque()).append(sequence)
        self._length += 1

    def gone(self, user: str) -> None:
        """A request of a user is over."""
        self._active[user] -= 1
        if not self._active[user]:
            del self._active[user]

    def put_back(self, sequence: Sequence) -> None:
        """Return a request to the head of its user's line."""
        self._waiting.setdefault(sequence.user, deque()).appendleft(sequence)
        self._length += 1

    def peek(self) -> Sequence | None:
        """The next request."""
        if not self._waiting:
            return None
        user = min(self._waiting, key=lambda name: (self._served[name], self._arrived(name)))
        return self._waiting[user][0]

    def remove(self, sequence: Sequence) -> None:
        line = self._waiting[sequence.user]
        line.remove(sequence)
        self._length -= 1
        if not line:
            del self._waiting[sequence.user]

    def served(self, user: str, tokens: int) -> None:
        """Count what a user got."""
        self._served[user] += tokens
        if len(self._served) > 10_000:  # names of users who are gone
            self._served = Counter({name: self._served[name] for name in self._active})

    def credit(self, user: str) -> int:
        """Tokens a user was served; who has fewer comes first."""
        return self._served[user]

    def _arrived(self, user: str) -> int:
        return self._waiting[user][0].number


def pieces(
    running: SequenceOf[Sequence],
    credit: Queue,
    *,
    chunk: int,
    beside: int,
    after: SequenceOf[Piece] = (),
) -> list[Piece]:
    """What one step computes: a token of everybody who decodes, and a piece of a prompt.

    `chunk`: ids of a step when nobody decodes; `beside`: ids of prompts in a step that others
    wait for. `after`: pieces that will be computed before it.
    """
    computed = Counter({piece.sequence: piece.length for piece in after})
    served: Counter[str] = Counter()
    for piece in after:
        served[piece.sequence.user] += piece.length
    left = {sequence: sequence.waiting_ids - computed[sequence] for sequence in running}
    decoding = [Piece(s, 1) for s in running if s.decoding or not left[s]]
    room = beside if decoding else chunk
    reading = sorted(
        (sequence for sequence in running if not sequence.decoding and left[sequence]),
        key=lambda s: (credit.credit(s.user) + served[s.user], s.number),
    )
    for sequence in reading:
        if room <= 0:
            break
        count = min(room, left[sequence])
        decoding.append(Piece(sequence, count))
        room -= count
    return decoding
