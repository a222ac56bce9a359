"""The calls of declared tools as segments: their names, parameters and values, nothing else."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from dsv4.chat.course import Segment
from dsv4.chat.grammar import Grammars
from dsv4.chat.schema import Json, Undeclared, checked, forms, resolved
from dsv4.encoding.calls import WRAPPER_KEYS
from dsv4.encoding.messages import read_tools
from dsv4.encoding.prompt import clean
from dsv4.errors import RequestError

if TYPE_CHECKING:
    import xgrammar

PARAM = "tools"

_NAME = re.compile(r'[^"<>\s]{1,128}')
_KEY = re.compile(r'(?:(?!">).){0,1024}', re.DOTALL)
"""A key that its tag can hold."""


@dataclass(frozen=True, slots=True)
class _Parameter:
    """One way to write a parameter. `key` None: any that is not declared."""

    key: str | None
    head: bytes
    body: xgrammar.CompiledGrammar


@dataclass(frozen=True, slots=True)
class _Tool:
    name: str
    parameters: tuple[_Parameter, ...]
    required: frozenset[str]


class Calls:
    """What a calls block may hold. Compiles when it is made, and never changes afterwards.

    `parallel`: more than one call. Raises RequestError (`tools`) for a schema that is too large
    or cannot be compiled.
    """

    def __init__(
        self, tools: Sequence[Mapping[str, Any]], grammars: Grammars, *, parallel: bool
    ) -> None:
        self._tools = [_read(function, grammars) for function in read_tools(tools)]
        self._dsml = grammars.vocabulary.dsml_id
        self._eos = grammars.vocabulary.eos_id
        self._parallel = parallel

    def whole(self) -> list[Segment]:
        """The block with its opener."""
        return [self._tag("\n\n<", self.opened)]

    def opened(self) -> list[Segment]:
        """The block after `<｜DSML｜`."""
        return [self._tag("tool_calls>\n<", self._invokes)]

    def _tag(self, text: str, then: Callable[[], list[Segment]]) -> Segment:
        return Segment(text.encode(), None, self._dsml, then)

    def _invokes(self) -> list[Segment]:
        return [segment for tool in self._tools for segment in self._invoke(tool)]

    def _invoke(self, tool: _Tool) -> Iterator[Segment]:
        head = f'invoke name="{tool.name}">\n'
        if tool.parameters:
            yield self._tag(f"{head}<", partial(self._parameters, tool, frozenset()))
        if not tool.required:
            yield self._tag(f"{head}\n</", self._invoke_end)

    def _parameters(self, tool: _Tool, used: frozenset[str | None]) -> list[Segment]:
        return [
            Segment(p.head, p.body, self._dsml, partial(self._parameter_end, tool, used | {p.key}))
            for p in tool.parameters
            if p.key is None or p.key not in used
        ]

    def _parameter_end(self, tool: _Tool, used: frozenset[str | None]) -> list[Segment]:
        found = []
        if self._parameters(tool, used):
            found.append(self._tag("parameter>\n<", partial(self._parameters, tool, used)))
        if tool.required <= used:
            found.append(self._tag("parameter>\n</", self._invoke_end))
        return found

    def _invoke_end(self) -> list[Segment]:
        more = [self._tag("invoke>\n<", self._invokes)] if self._parallel else []
        return [*more, self._tag("invoke>\n</", self._end)]

    def _end(self) -> list[Segment]:
        return [Segment(b"tool_calls>", None, self._eos)]


def _read(function: Mapping[str, Any], grammars: Grammars) -> _Tool:
    name = function["name"]
    if not _NAME.fullmatch(name):
        raise RequestError(f"{PARAM}: {name[:80]!r} cannot be the name of a tool", param=PARAM)
    root = checked(function.get("parameters") or {"properties": {}}, f"{PARAM}: {name}", PARAM)
    schema = resolved(root, root)
    wanted = schema.get("required")
    required = [key for key in wanted if isinstance(key, str)] if isinstance(wanted, list) else []
    declared = schema.get("properties") or {}
    properties = {**{key: {} for key in required if key not in declared}, **declared}
    parameters = []
    for key, value in properties.items():
        if not _KEY.fullmatch(key):
            raise RequestError(f"{PARAM}: {name}: {key[:80]!r} cannot be a parameter", param=PARAM)
        for form in forms(value, root):
            head = f'parameter name="{clean(key)}" string="{_is_text(form)}">'
            body = grammars.compiled(form, "</", PARAM)
            parameters.append(_Parameter(key, head.encode(), body))
    others = schema.get("additionalProperties", {} if "properties" not in schema else False)
    if others is not False:
        names = tuple(sorted({*properties, *WRAPPER_KEYS}))
        for form in forms(others, root):
            body = grammars.compiled(Undeclared(names, _is_text(form), form), "</", PARAM)
            parameters.append(_Parameter(None, b'parameter name="', body))
    return _Tool(name, tuple(parameters), frozenset(required))


def _is_text(form: object) -> str:
    """The attribute `string` of a parameter that is written in this form."""
    return "false" if isinstance(form, Json) else "true"
