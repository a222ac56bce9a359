"""The strict parser: a whole answer exactly as V4 was trained to write it, or a ParseError."""

from __future__ import annotations

import re
from collections.abc import Iterable

from dsv4.encoding.dsml import json_text
from dsv4.encoding.events import Reply
from dsv4.encoding.marked import (
    ANY_MARK,
    CLOSE_CALLS,
    CLOSE_INVOKE,
    CLOSE_PARAMETER,
    DSML,
    EOS,
    OPEN_CALLS,
    OPEN_INVOKE,
    OPEN_PARAMETER,
    THINK_CLOSE,
    mark_all,
    mark_spans,
    unmark,
)
from dsv4.encoding.messages import ToolCall
from dsv4.encoding.repair import NotJson, read_json
from dsv4.errors import ParseError

_NAME = re.compile('([^\ud800-\udfff]*?)">\n')
_HEAD = re.compile(' name="([^\ud800-\udfff]*?)" string="(true|false)">')


def parse(answer: str | Iterable[tuple[str, bool]], *, thinking: bool) -> Reply:
    """Read an answer, from the end of the prompt to EOS (or to its end).

    answer: text, in which every control string counts as a token; or spans of (text, is
        control), such as `Prompt.spans` or decoded `Piece`s, in which only tokens do.
    thinking: the prompt ended in `<think>`.

    Repairs nothing: raises ParseError for the first departure from the form.
    """
    text = mark_all(answer) if isinstance(answer, str) else mark_spans(answer)
    body, end, after = text.partition(EOS)
    if after:
        raise ParseError("text follows the end of the answer")
    reasoning = None
    if thinking:
        reasoning, closer, body = body.partition(THINK_CLOSE)
        if not closer:
            raise ParseError("the reasoning is not closed by </think>")
        _refuse_control(reasoning, "reasoning")
    content, opener, block = body.partition("\n\n" + OPEN_CALLS)
    _refuse_control(content, "content")
    calls = _Block(block).calls() if opener else ()
    return Reply(reasoning, content, calls)


def _refuse_control(text: str, where: str) -> None:
    found = ANY_MARK.search(text)
    if found is not None:
        raise ParseError(f"the {where} contains the control token {unmark(found.group())}")


class _Block:
    """Reads a calls block, from behind its opener to the end of the answer."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    def calls(self) -> tuple[ToolCall, ...]:
        calls = []
        while self._accept("\n" + OPEN_INVOKE):
            calls.append(self._invoke())
        self._expect("\n" + CLOSE_CALLS)
        if not calls:
            raise ParseError("the calls block holds no call")
        if self._at != len(self._text):
            raise ParseError("text follows the calls block")
        return tuple(calls)

    def _invoke(self) -> ToolCall:
        name = self._match(_NAME, "the name of a call").group(1)
        values: dict[str, str] = {}
        while self._accept(("\n" if values else "") + OPEN_PARAMETER):
            head = self._match(_HEAD, f"a parameter of {name}")
            key = head.group(1)
            if key in values:
                raise ParseError(f"the call of {name} has two parameters {key!r}")
            value = self._value(key)
            if head.group(2) == "true":
                values[key] = json_text(value)
                continue
            try:
                values[key] = json_text(read_json(value))
            except NotJson as error:
                raise ParseError(f"parameter {key!r} of {name} is not JSON: {error}") from error
        self._expect("\n" + CLOSE_INVOKE)
        pairs = ", ".join(f"{json_text(key)}: {value}" for key, value in values.items())
        return ToolCall(name, "{" + pairs + "}")

    def _value(self, key: str) -> str:
        """Text up to the closing tag; tokens other than DSML are shown as text."""
        mark = self._text.find(DSML, self._at)
        end = mark - len("</")
        if mark < 0 or end < self._at or not self._text.startswith(CLOSE_PARAMETER, end):
            raise ParseError(f"parameter {key!r} is not closed")
        value = self._text[self._at : end]
        self._at = end + len(CLOSE_PARAMETER)
        return unmark(value)

    def _accept(self, literal: str) -> bool:
        if self._text.startswith(literal, self._at):
            self._at += len(literal)
            return True
        return False

    def _expect(self, literal: str) -> None:
        if not self._accept(literal):
            raise ParseError(f"expected {unmark(literal)!r}, found {self._excerpt()}")

    def _match(self, pattern: re.Pattern[str], what: str) -> re.Match[str]:
        found = pattern.match(self._text, self._at)
        if found is None:
            raise ParseError(f"{what} is malformed: {self._excerpt()}")
        self._at = found.end()
        return found

    def _excerpt(self) -> str:
        rest = unmark(self._text[self._at : self._at + 40])
        return repr(rest) if rest else "the end"
