"""The tolerant streaming parser: model output in pieces -> events.

REASON -> CONTENT -> CALLS -> DONE. Pieces may be cut anywhere; joined deltas are always the
same. Markup that V4 models are known to get wrong is repaired or shown as text and counted by
kind in `malformed`; a call is never invented, and output cut off by a token limit never shows
half a tag.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import Any, Literal

from dsv4.encoding.calls import CallWriter
from dsv4.encoding.events import ContentDelta, Event, ReasoningDelta
from dsv4.encoding.marked import (
    ANY_MARK,
    CLOSE_INVOKE,
    CLOSE_PARAMETER,
    CLOSE_WRAPPER,
    DSML,
    EOS,
    OPEN_CALLS,
    OPEN_INVOKE,
    OPEN_MISSPELT,
    OPEN_PARAMETER,
    THINK_CLOSE,
    TextMarker,
    mark_text,
    mark_token,
    read_tag,
    unmark,
)
from dsv4.encoding.messages import read_tools

_CLOSERS = (*CLOSE_WRAPPER, CLOSE_INVOKE, CLOSE_PARAMETER)
_TEXT_TAGS = (OPEN_CALLS, *OPEN_MISSPELT, OPEN_INVOKE, *_CLOSERS)
_BLOCK_TAGS = (OPEN_INVOKE, *_CLOSERS)
_CALL_TAGS = (OPEN_PARAMETER + " ", OPEN_INVOKE, *_CLOSERS)

_BEFORE_TAG = re.compile(r"\n{0,2}(?:</?)?\Z")
"""What may belong to a tag that has not come yet, at the end of text."""
_TAG_START = re.compile(r"</?\Z")
_NEXT_TAG = re.compile("[<\ud800-\udfff]")
_INVOKE_HEAD = re.compile(re.escape(OPEN_INVOKE) + '([^"<>\\s\ud800-\udfff]{1,128})">')
_INVOKE_HEAD_PART = re.compile(re.escape(OPEN_INVOKE) + '[^"<>\\s\ud800-\udfff]{0,128}(?:">?)?')
_INVOKE_END = re.compile("|".join(map(re.escape, (EOS, CLOSE_INVOKE, *CLOSE_WRAPPER))))
_INVOKE_END_IN_THINK = re.compile(f"{THINK_CLOSE}|{_INVOKE_END.pattern}")
_ORDINARY_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")
_ATTRIBUTE = re.compile(r'(\w+)="(.*?)(?="\s+\w+="|\Z)', re.DOTALL)
_PARAMETER_HEAD = re.compile(r'name="(.*)" string="(true|false)\Z', re.DOTALL)
_MAX_HEAD = 4096
_SLICE = 4096
_LONGEST_CLOSER = max(map(len, _CLOSERS))


class State(Enum):
    """Where in an answer the parser is."""

    REASON = "reason"
    CONTENT = "content"
    CALLS = "calls"
    DONE = "done"


class StreamParser:
    """Parses one answer.

    thinking: the prompt ended in `<think>` (`Prompt.opens_thinking`).
    tools: the declared tools (OpenAI shape or function objects). Only calls of these are
        calls, and their schemas guide repairs. None: unknown, any well-formed name is accepted.
    markers: "tokens" if `feed` is told which pieces are control tokens (other text is then
        never markup), "text" if markup has to be recognised in the text.
    bare_invokes: accept a complete invoke of a declared tool that lacks its wrapper.
    """

    def __init__(
        self,
        *,
        thinking: bool,
        tools: Sequence[Mapping[str, Any]] | None = None,
        markers: Literal["tokens", "text"] = "tokens",
        bare_invokes: bool = False,
    ) -> None:
        self.state = State.REASON if thinking else State.CONTENT
        self.malformed: Counter[str] = Counter()
        """How often each kind of malformed markup was met."""
        self._schemas: dict[str, object] | None = None
        if tools is not None:
            self._schemas = {f["name"]: f.get("parameters") for f in read_tools(tools)}
        self._marker = TextMarker() if markers == "text" else None
        self._bare_invokes = bare_invokes
        self._events: list[Event] = []
        self._buffer = ""
        self._step: Callable[[], bool] = self._text
        self._held: list[str] = []  # markup that is shown as text if it turns out to be no call
        self._strict_names = False  # inside a misspelt wrapper: declared names only
        self._shown = False  # part of this block was shown as text
        self._bare = False  # the invoke being looked at has no wrapper
        self._calls = 0
        self._writer: CallWriter | None = None
        self._in_gap = False  # stray text since the last tag was counted

    @property
    def done(self) -> bool:
        """Whether nothing that still comes can matter."""
        return self.state is State.DONE

    def feed(self, text: str, *, control: bool = False) -> list[Event]:
        """The next piece of output; `control` says that it is one control token."""
        if control:
            partial = self._marker.finish() if self._marker is not None else ""
            self._run(partial + mark_token(text))
        elif self._marker is not None:
            self._run(self._marker.feed(text))
        else:
            self._run(mark_text(text))
        return self._drain()

    def finish(self, *, truncated: bool = False) -> list[Event]:
        """The output is over; `truncated` if a token limit or the client ended it."""
        partial = self._marker.finish() if self._marker is not None else ""
        cut_token = truncated and partial not in ("", "<", "</")
        self._run("" if cut_token else partial)
        self._flush(truncated, cut_token)
        return self._drain()

    def _run(self, text: str) -> None:
        """Take in marked text, a little at a time so that the buffer stays small."""
        for start in range(0, len(text), _SLICE):
            self._buffer += text[start : start + _SLICE]
            while self._step():
                pass

    def _drain(self) -> list[Event]:
        events = self._events.copy()
        self._events.clear()
        return events

    def _cut(self, length: int) -> str:
        head, self._buffer = self._buffer[:length], self._buffer[length:]
        return head

    def _release(self) -> str:
        """What was held, which is then no longer."""
        held = "".join(self._held)
        self._held.clear()
        return held

    def _show(self, text: str) -> None:
        """Send marked text to the reader, as reasoning or content."""
        if text:
            kind = ReasoningDelta if self.state is State.REASON else ContentDelta
            self._events.append(kind(unmark(text)))

    def _finish_answer(self) -> None:
        self._held.clear()
        self.state = State.DONE
        self._step = self._rest

    # Each step consumes the start of the buffer; False means that it needs more of it.

    def _text(self) -> bool:
        """Reasoning or content, up to the next mark."""
        found = ANY_MARK.search(self._buffer)
        if found is None:
            tail = self._buffer[-4:]
            held = _BEFORE_TAG.search(tail)
            assert held is not None
            self._show(self._cut(len(self._buffer) - len(tail) + held.start()))
            return False
        at, mark = found.start(), found.group()
        if mark != DSML:
            self._show(self._cut(at))
            self._cut(1)
            if mark == EOS:
                self._finish_answer()
            elif mark == THINK_CLOSE and self.state is State.REASON:
                self.state = State.CONTENT
            else:
                self.malformed["stray_closer" if mark == THINK_CLOSE else "stray_control"] += 1
            return True
        return self._tag_in_text(at)

    def _tag_in_text(self, at: int) -> bool:
        """A DSML mark at `at` of the buffer, in reasoning or content."""
        start = _TAG_START.search(self._buffer, 0, at)
        tag = "" if start is None else read_tag(self._buffer, start.start(), _TEXT_TAGS)
        if tag is None:
            lead = _BEFORE_TAG.search(self._buffer, 0, at)
            assert lead is not None
            self._show(self._cut(lead.start()))
            return False
        if start is None or not tag:
            self.malformed["stray_markup"] += 1
            self._show(self._cut(at + 1))
            return True
        if tag in _CLOSERS:
            self.malformed["stray_closer"] += 1
            self._show(self._cut(start.start()))
            self._cut(len(tag))
            return True
        lead = _BEFORE_TAG.search(self._buffer, 0, at)
        assert lead is not None
        self._show(self._cut(lead.start()))
        self._shown = self._strict_names = self._in_gap = False
        if tag == OPEN_INVOKE:
            self._bare = True
            self._step = self._verbatim
        else:
            self._held.append(self._cut(start.start() - lead.start() + len(tag)))
            self._strict_names = tag != OPEN_CALLS
            self._step = self._block
        return True

    def _block(self) -> bool:
        """Between the invokes of a calls block, or before the first one."""
        if not self._skip_space():
            return False
        mark = self._buffer[0]
        if mark == EOS:
            self.malformed["unclosed_block"] += 1
            self._finish_answer()
            return True
        if mark == THINK_CLOSE and self.state is State.REASON:
            self.malformed["stray_markup"] += 1
            self._show(self._release())
            self._back_to_text()
            return True
        if ANY_MARK.match(mark) and mark != DSML:
            self._drop_control()
            return True
        tag = read_tag(self._buffer, 0, _BLOCK_TAGS)
        if tag is None:
            return False
        if tag == OPEN_INVOKE:
            return self._invoke_head()
        if tag in CLOSE_WRAPPER:
            self._cut(len(tag))
            if self._shown and not self._calls:
                self._show(self._release() + tag)
                self._back_to_text()
            else:
                if not self._calls:
                    self.malformed["empty_block"] += 1
                self._finish_answer()
        elif tag:
            self.malformed["stray_closer"] += 1
            self._cut(len(tag))
        elif self._calls:
            self._drop_gap()
        else:
            self.malformed["stray_markup"] += 1
            self._show(self._release())
            self._back_to_text()
        return True

    def _invoke_head(self) -> bool:
        head = _INVOKE_HEAD.match(self._buffer)
        if head is None and _INVOKE_HEAD_PART.fullmatch(self._buffer):
            return False
        if head is None or not self._is_callable(head.group(1)):
            self._bare = False
            self._step = self._verbatim
            return True
        if self.state is State.REASON:
            self.malformed["block_in_reasoning"] += 1
        if self._strict_names and not self._calls:
            self.malformed["misspelt_opener"] += 1
        self.state = State.CALLS
        self._held.clear()
        self._cut(head.end())
        self._in_gap = False
        name = head.group(1)
        schema = (self._schemas or {}).get(name)
        self._writer = CallWriter(self._calls, name, schema, self._events.append, self.malformed)
        self._calls += 1
        self._step = self._call
        return True

    def _is_callable(self, name: str) -> bool:
        if self._schemas is not None:
            return name in self._schemas
        return not self._strict_names and _ORDINARY_NAME.match(name) is not None

    def _verbatim(self) -> bool:
        """An invoke that is no call: shown as it is, but only once it is complete."""
        pattern = _INVOKE_END_IN_THINK if self.state is State.REASON else _INVOKE_END
        end = pattern.search(self._buffer)
        if end is None:
            self._held.append(self._cut(max(0, len(self._buffer) - _LONGEST_CLOSER)))
            return False
        if end.group() in (EOS, THINK_CLOSE):
            return self._stop_verbatim(end.start(), end.group())
        text = self._release() + self._cut(end.end())
        if self._bare and self._bare_invokes and end.group() == CLOSE_INVOKE:
            head = _INVOKE_HEAD.match(text.lstrip("\n"))
            if head is not None and head.group(1) in (self._schemas or ()):
                self.malformed["bare_invoke"] += 1
                self._buffer = text + self._buffer
                self._step = self._block
                return True
        self.malformed["bare_invoke" if self._bare else "invalid_name"] += 1
        self._show(text)
        self._shown = True
        if not self._bare and end.group() == CLOSE_INVOKE:
            self._step = self._block
        elif self._calls:
            self._finish_answer()
        else:
            self._back_to_text()
        return True

    def _stop_verbatim(self, stop: int, mark: str) -> bool:
        """The answer or the reasoning ends inside an invoke that is no call."""
        text = self._release() + self._cut(stop)
        if self._bare or mark == THINK_CLOSE:
            self.malformed["stray_markup"] += 1
            self._show(text)
        else:
            self.malformed["unclosed_invoke"] += 1
        self._back_to_text()
        return True

    def _back_to_text(self) -> None:
        """What looked like a calls block was text."""
        self._held.clear()
        self._step = self._block if self._calls else self._text

    def _call(self) -> bool:
        """Inside an invoke, between its parameters."""
        assert self._writer is not None
        if not self._skip_space():
            return False
        mark = self._buffer[0]
        if mark == EOS:
            self._abort()
            return True
        if ANY_MARK.match(mark) and mark != DSML:
            self._drop_control()
            return True
        tag = read_tag(self._buffer, 0, _CALL_TAGS)
        if tag is None:
            return False
        if tag.startswith(OPEN_PARAMETER):
            return self._parameter_head(len(tag))
        if tag == CLOSE_PARAMETER:
            self.malformed["stray_closer"] += 1
            self._cut(len(tag))
        elif tag:
            if tag == CLOSE_INVOKE:
                self._cut(len(tag))
            else:
                self.malformed["unclosed_invoke"] += 1
            self._writer.close()
            self._writer = None
            self._in_gap = False
            self._step = self._block
        else:
            self._drop_gap()
        return True

    def _parameter_head(self, start: int) -> bool:
        assert self._writer is not None
        end = self._buffer.find('">', start)
        mark = ANY_MARK.search(self._buffer, start)
        if end < 0 and mark is None and len(self._buffer) < start + _MAX_HEAD + 2:
            return False
        key, string = None, None
        if 0 <= end <= start + _MAX_HEAD and (mark is None or end < mark.start()):
            key, string = _read_head(self._buffer[start:end])
        if key is None:
            self.malformed["bad_parameter"] += 1
            self._cut(start)
            self._in_gap = True
            return True
        self._cut(end + 2)
        self._in_gap = False
        self._writer.begin(key, string)
        self._step = self._value
        return True

    def _value(self) -> bool:
        """Inside a parameter's value: everything up to the next tag belongs to it."""
        assert self._writer is not None
        found = ANY_MARK.search(self._buffer)
        at = len(self._buffer) if found is None else found.start()
        start = _TAG_START.search(self._buffer, 0, at)
        before = at if start is None else start.start()
        if found is None:
            self._value_text(before)
            return False
        if found.group() == EOS:
            self._value_text(at)
            self._abort()
            return True
        tag = "" if start is None or found.group() != DSML else None
        if tag is None:
            self._value_text(before)
            tag = read_tag(self._buffer, 0, _CALL_TAGS)
            if tag is None:
                return False
            at -= before
        if not tag:
            self._value_text(at + 1)
            return True
        if tag == CLOSE_PARAMETER:
            self._cut(len(tag))
        else:
            self.malformed["unclosed_parameter"] += 1
        self._writer.end()
        self._step = self._call
        return True

    def _value_text(self, length: int) -> None:
        assert self._writer is not None
        if length:
            self._writer.value(unmark(self._cut(length)))

    def _rest(self) -> bool:
        """After the answer."""
        closers = self._buffer.count(THINK_CLOSE)
        if closers:
            self.malformed["stray_closer"] += closers
        if self._buffer.strip(EOS + THINK_CLOSE + " \t\r\n"):
            self.malformed["text_after_answer"] = 1
        self._buffer = ""
        return False

    def _skip_space(self) -> bool:
        """Drop leading space (kept while it may have to be shown); False if nothing is left."""
        space = self._cut(len(self._buffer) - len(self._buffer.lstrip(" \t\r\n")))
        if not self._calls:
            self._held.append(space)
        return bool(self._buffer)

    def _drop_control(self) -> None:
        mark = self._cut(1)
        self.malformed["stray_closer" if mark == THINK_CLOSE else "stray_control"] += 1

    def _drop_gap(self) -> None:
        """Drop text that stands where only tags may."""
        if not self._in_gap:
            self.malformed["stray_text"] += 1
            self._in_gap = True
        found = _NEXT_TAG.search(self._buffer, 1)
        self._cut(len(self._buffer) if found is None else found.start())

    def _abort(self) -> None:
        assert self._writer is not None
        self.malformed["unclosed_invoke"] += 1
        self._writer.abort()
        self._writer = None
        self._finish_answer()

    def _flush(self, truncated: bool, cut_token: bool) -> None:
        """Decide about all that is held back; afterwards the answer is over."""
        rest = self._release() + self._buffer
        if self._writer is not None:
            self._abort()
        elif self._step == self._verbatim and self._bare and not truncated:
            self.malformed["stray_markup"] += 1
            self._show(rest)
        elif self._step == self._block or DSML in rest:
            self.malformed["unclosed_block"] += 1
        elif self._step == self._text and not (
            cut_token or (truncated and rest.startswith("\n\n"))
        ):
            self._show(rest)
        self._buffer = ""
        self._finish_answer()


def _read_head(text: str) -> tuple[str | None, bool | None]:
    """Name and `string` of a parameter head, without the `">` at its end."""
    proper = _PARAMETER_HEAD.match(text)
    if proper is not None:
        return proper.group(1), proper.group(2) == "true"
    attributes = dict(_ATTRIBUTE.findall(text))
    strings = {"true": True, "false": False}
    return attributes.get("name"), strings.get(attributes.get("string", "").lower())
