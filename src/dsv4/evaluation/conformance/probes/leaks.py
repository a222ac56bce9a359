"""What no answer may hold: control tokens and the markup of tool calls."""

from __future__ import annotations

import re

from dsv4.encoding.control import CONTROL_TOKENS

_MARKUP = re.compile(
    "|".join(
        (
            *(re.escape(token) for token in CONTROL_TOKENS),
            "｜DSML｜",
            "</?｜[^｜<>]{1,40}｜>",  # a control token of another release
            "</?(?:tool_calls?|function_calls|invoke|tool▁call\\w*)[ >]",
        )
    )
)


def leak(text: str) -> str | None:
    """The first piece of markup in a text, and what follows it; None if there is none."""
    found = _MARKUP.search(text)
    return None if found is None else text[found.start() : found.start() + 60]


def loops(text: str, times: int = 4, longest: int = 60) -> bool:
    """Whether a text ends by repeating something of at most `longest` characters `times` times
    (and for at least as many characters)."""
    for period in range(1, longest + 1):
        length = max(period * times, longest)
        if len(text) < length + period:
            continue
        tail = text[-length - period :]
        if tail[period:] == tail[:-period]:
            return True
    return False
