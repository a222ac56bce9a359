"""Stop strings over a text that arrives in pieces."""

from __future__ import annotations

from collections.abc import Sequence


class StopStrings:
    """Passes text on up to the first stop string; holds back what may become one."""

    def __init__(self, strings: Sequence[str]) -> None:
        self._strings = [string for string in strings if string]
        self._held = ""
        self.found: str | None = None
        """The stop string that came."""

    @property
    def hit(self) -> bool:
        """Whether a stop string came; nothing passes any more."""
        return self.found is not None

    def feed(self, text: str) -> str:
        """The part of the text so far that is certain to belong to the answer."""
        if self.hit:
            return ""
        text = self._held + text
        found = [(text.find(string), string) for string in self._strings if string in text]
        if found:
            at, self.found = min(found)
            self._held = ""
            return text[:at]
        keep = max((_overlap(text, string) for string in self._strings), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def finish(self) -> str:
        """What was held back, now that no more text comes."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, string: str) -> int:
    """Length of the longest end of `text` that is a proper start of `string`."""
    end = text[-(len(string) - 1) :] if len(string) > 1 else ""
    # Only where the first letter stands can it begin; the leftmost place is the longest.
    at = end.find(string[0])
    while at >= 0:
        if string.startswith(end[at:]):
            return len(end) - at
        at = end.find(string[0], at + 1)
    return 0
