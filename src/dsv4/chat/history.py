"""The exact ids of past answers, for the prompts of the requests that go on from them.

A client sends an answer back as text: its calls as JSON in some order and spacing, its reasoning
perhaps left out. Written anew, that seldom gives the ids that were drawn, and what the engine
computed for them would be of no use.
"""

from __future__ import annotations

import threading
from array import array
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass

from dsv4.encoding.dsml import history_arguments
from dsv4.encoding.messages import Message, ToolCall

MOST_IDS = 1 << 22
"""Ids that are kept, of all answers together: 16 MiB."""


@dataclass(frozen=True, slots=True)
class Turn:
    """An answer as it was drawn, from the end of its prompt to EOS, and as clients saw it.

    `user`: whose it is. `prompt`: digest of the prompt it answers. `reasoning` None: in chat
    mode.
    """

    user: str
    prompt: bytes
    ids: Sequence[int]
    reasoning: str | None
    content: str
    calls: tuple[ToolCall, ...]


class History:
    """Remembers the last answers, from any thread."""

    def __init__(self, most_ids: int = MOST_IDS) -> None:
        self._turns: OrderedDict[Hashable, Turn] = OrderedDict()
        self._most = most_ids
        self._ids = 0
        self._lock = threading.Lock()

    def remember(self, turn: Turn) -> None:
        """Keep an answer, and forget the oldest ones if there are too many."""
        kept = Turn(
            turn.user,
            turn.prompt,
            array("i", turn.ids),
            turn.reasoning,
            turn.content,
            turn.calls,
        )
        with self._lock:
            for key in _keys(turn.user, turn.prompt, turn.content, turn.calls):
                old = self._turns.pop(key, None)
                self._ids -= len(old.ids) if old is not None else 0
                self._turns[key] = kept
                self._ids += len(kept.ids)
            while self._ids > self._most:
                _, old = self._turns.popitem(last=False)
                self._ids -= len(old.ids)

    def recall(self, user: str) -> Callable[[Message, bool, bytes], tuple[int, ...] | None]:
        """What `render` asks for the ids of an assistant's message in a prompt of this user."""

        def ids(message: Message, reasons: bool, prompt: bytes) -> tuple[int, ...] | None:
            turn = self._find(user, message, prompt)
            if turn is None or reasons != (turn.reasoning is not None) or not _is(turn, message):
                return None
            return tuple(turn.ids)

        return ids

    def _find(self, user: str, message: Message, prompt: bytes) -> Turn | None:
        keys = _keys(user, prompt, message.content, message.tool_calls)
        with self._lock:
            found = [self._turns.get(key) for key in keys]
            if found[0] is None or any(turn is not found[0] for turn in found):
                return None
            for key in keys:
                self._turns.move_to_end(key)
        return found[0]


def _keys(user: str, prompt: bytes, content: str, calls: Sequence[ToolCall]) -> list[Hashable]:
    """An answer with calls is known by their ids, which nobody can guess; another by what it
    answers and says."""
    if calls:
        return [(user, call.id) for call in calls]
    return [(user, prompt, content.strip())]


def _is(turn: Turn, message: Message) -> bool:
    """Whether a message shows this answer, with nothing changed but the form."""
    return (
        message.content.strip() in ("", turn.content.strip())
        and (message.reasoning or "").strip() in ("", (turn.reasoning or "").strip())
        and _calls(message.tool_calls) == _calls(turn.calls)
    )


def _calls(calls: Sequence[ToolCall]) -> Mapping[str | None, object]:
    return {call.id: (call.name, history_arguments(call.arguments)) for call in calls}
