"""The reader of plain completions: all text is content."""

from __future__ import annotations

from collections import Counter

from dsv4.encoding.events import ContentDelta, Event
from dsv4.encoding.stream import State


class PlainText:
    """Stands where a StreamParser stands; control tokens are visible text like any other."""

    state = State.CONTENT
    done = False

    def __init__(self) -> None:
        self.malformed: Counter[str] = Counter()

    def feed(self, text: str, *, control: bool = False) -> list[Event]:
        return [ContentDelta(text)]

    def finish(self, *, truncated: bool = False) -> list[Event]:
        return []
