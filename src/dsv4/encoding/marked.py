"""Marked text: model output as one string in which control tokens can not be mistaken.

Each control token is one lone surrogate, a character that no decoded UTF-8 contains. Parsers
then work on plain strings, and the text `</think>` and the token `</think>` differ.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from dsv4.encoding import control, dsml
from dsv4.encoding.control import CONTROL_TOKENS, split_controls

_MARKS = {token: chr(0xDC00 + i) for i, token in enumerate(CONTROL_TOKENS)}
_CONTENTS = {ord(mark): token for token, mark in _MARKS.items()}
_SURROGATE = re.compile("[\ud800-\udfff]")

EOS = _MARKS[control.EOS]
THINK_CLOSE = _MARKS[control.THINK_CLOSE]
DSML = _MARKS[control.DSML]
ANY_MARK = re.compile("[" + "".join(_MARKS.values()) + "]")


def _marked(markup: str) -> str:
    return markup.replace(control.DSML, DSML)


OPEN_CALLS = _marked(dsml.OPEN_CALLS)
CLOSE_CALLS = _marked(dsml.CLOSE_CALLS)
OPEN_INVOKE = _marked(dsml.OPEN_INVOKE)
CLOSE_INVOKE = _marked(dsml.CLOSE_INVOKE)
OPEN_PARAMETER = _marked(dsml.OPEN_PARAMETER)
CLOSE_PARAMETER = _marked(dsml.CLOSE_PARAMETER)

MISSPELT_CALLS = ("toolcalls", "toolcall", "function_calls")
"""Wrapper names that V4 models have been seen to write instead of `tool_calls`."""
OPEN_MISSPELT = tuple(f"<{DSML}{name}>" for name in MISSPELT_CALLS)
CLOSE_WRAPPER = (CLOSE_CALLS, *(f"</{DSML}{name}>" for name in MISSPELT_CALLS))


def mark_token(token: str) -> str:
    """The mark of a control token; a token V4 does not use stays visible text."""
    return _MARKS.get(token) or mark_text(token)


def mark_text(text: str) -> str:
    """Ordinary text, without marks of any kind."""
    return _SURROGATE.sub("\ufffd", text)


def mark_spans(spans: Iterable[tuple[str, bool]]) -> str:
    """Spans of (text, is control) as marked text."""
    return "".join(mark_token(text) if flag else mark_text(text) for text, flag in spans)


def mark_all(text: str) -> str:
    """Text of which nothing better is known: every control string is taken as a token."""
    return mark_spans(split_controls(text))


def unmark(text: str) -> str:
    """Marked text with its control tokens as visible strings."""
    return text.translate(_CONTENTS)


def read_tag(text: str, at: int, tags: Sequence[str]) -> str | None:
    """Which of `tags` stands at `text[at]`: the tag, "" if none can, None if the text ends
    before that is known."""
    for tag in tags:
        if text.startswith(tag, at):
            return tag
    rest = text[at : at + max(map(len, tags))]
    return None if any(tag.startswith(rest) for tag in tags) else ""


class TextMarker:
    """Marks text that arrives in pieces without knowledge of its tokens.

    Only what drives the parser is recognised: `</think>`, `｜DSML｜` and EOS. Other control
    strings are probably somebody writing about them, and stay text.
    """

    _TOKENS = (control.THINK_CLOSE, control.DSML, control.EOS)
    _FIND = re.compile("|".join(map(re.escape, _TOKENS)))
    _PREFIXES = frozenset(token[:n] for token in _TOKENS for n in range(1, len(token)))
    _LONGEST = max(map(len, _TOKENS)) - 1

    def __init__(self) -> None:
        self._held = ""

    def feed(self, text: str) -> str:
        """Marked text as far as it is certain."""
        self._held += mark_text(text)
        marked = self._FIND.sub(lambda found: _MARKS[found.group()], self._held)
        for length in range(min(self._LONGEST, len(marked)), 0, -1):
            if marked[-length:] in self._PREFIXES:
                self._held = marked[-length:]
                return marked[:-length]
        self._held = ""
        return marked

    def finish(self) -> str:
        """The start of a control string that never was completed."""
        held, self._held = self._held, ""
        return held
