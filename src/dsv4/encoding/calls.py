"""The arguments of one tool call, streamed as JSON while its parameters arrive."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from enum import Enum, auto

from dsv4.encoding.dsml import json_text
from dsv4.encoding.events import Event, ToolCallArgumentsDelta, ToolCallEnd, ToolCallStart
from dsv4.encoding.prompt import clean
from dsv4.encoding.repair import NotJson, coerce, fits, properties, read_json

WRAPPER_KEYS = ("arguments", "input")
"""Parameters that models use to send the whole argument object at once."""


class _Mode(Enum):
    STREAM = auto()
    """A string whose pieces are sent at once."""
    BUFFER = auto()
    """A value that is checked when it is complete."""
    WRAPPER = auto()
    """A value that may turn out to be the whole argument object."""
    DROP = auto()


class CallWriter:
    """Turns the parameters of one invoke into events. `emit` receives them in order; repairs
    are counted in `malformed`."""

    def __init__(
        self,
        index: int,
        name: str,
        schema: object,
        emit: Callable[[Event], None],
        malformed: Counter[str],
    ) -> None:
        self._index = index
        self._schema = schema
        self._emit = emit
        self._malformed = malformed
        self._sent: list[str] = []
        self._keys: set[str] = set()
        self._key = ""
        self._string: bool | None = None
        self._mode = _Mode.DROP
        self._buffer: list[str] = []
        self._wrapped: tuple[str, str, bool | None] | None = None
        emit(ToolCallStart(index, name))

    def begin(self, key: str, string: bool | None) -> None:
        """A parameter starts; `string` is its attribute, None if it is missing."""
        if self._wrapped is not None:
            self._send_value(*self._wrapped)
            self._wrapped = None
        known = properties(self._schema)
        self._key, self._string, self._buffer = key, string, []
        if key in self._keys:
            self._malformed["duplicate_parameter"] += 1
            self._mode = _Mode.DROP
        elif known is not None and key in WRAPPER_KEYS and key not in known and not self._keys:
            self._mode = _Mode.WRAPPER
        elif string:
            self._mode = _Mode.STREAM
            self._send_key(key)
            self._send('"')
        else:
            self._mode = _Mode.BUFFER
        self._keys.add(key)

    def value(self, text: str) -> None:
        """A piece of the value of the current parameter."""
        if self._mode is _Mode.STREAM:
            self._send(json_text(text)[1:-1])
        elif self._mode is not _Mode.DROP:
            self._buffer.append(text)

    def end(self) -> None:
        """The current parameter is complete."""
        text = "".join(self._buffer)
        if self._mode is _Mode.STREAM:
            self._send('"')
        elif self._mode is _Mode.BUFFER:
            self._send_value(self._key, text, self._string)
        elif self._mode is _Mode.WRAPPER:
            self._wrapped = (self._key, text, self._string)
        self._mode = _Mode.DROP

    def close(self) -> None:
        """The invoke is complete."""
        if self._wrapped is not None:
            key, text, string = self._wrapped
            try:
                inner = read_json(text)
            except NotJson:
                inner = None
            if fits(inner, self._schema):
                self._malformed["wrapped_arguments"] += 1
                self._send(json_text(inner))
                self._finish(complete=True)
                return
            self._send_value(key, text, string)
        self._send("}" if self._sent else "{}")
        self._finish(complete=True)

    def abort(self) -> None:
        """The output ended inside the invoke."""
        self._finish(complete=False)

    def _send_value(self, key: str, text: str, string: bool | None) -> None:
        if string:
            value = json_text(text)
        else:
            known = properties(self._schema) or {}
            value = self._checked(text, string, known.get(key))
        self._send_key(key)
        self._send(value)

    def _checked(self, text: str, string: bool | None, schema: object) -> str:
        if string is None:
            self._malformed["missing_string_attribute"] += 1
            return coerce(text, schema)
        try:
            return clean(json_text(read_json(text)))
        except NotJson:
            self._malformed["invalid_json"] += 1
            return coerce(text, schema)

    def _send_key(self, key: str) -> None:
        self._send((", " if self._sent else "{") + json_text(key) + ": ")

    def _send(self, text: str) -> None:
        if text:
            self._sent.append(text)
            self._emit(ToolCallArgumentsDelta(self._index, text))

    def _finish(self, *, complete: bool) -> None:
        self._emit(ToolCallEnd(self._index, "".join(self._sent), complete))
