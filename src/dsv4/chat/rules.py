"""What an answer must look like: a request's tools, format and budget, made ready to be followed.

V: vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from dsv4.chat.budget import Budget
from dsv4.chat.course import Course, Segment
from dsv4.chat.grammar import Grammars
from dsv4.chat.markup import Calls
from dsv4.chat.request import Format, Named, Request, Schema
from dsv4.chat.schema import Body, Regex, checked, checked_pattern, json_body
from dsv4.chat.vocabulary import Vocabulary
from dsv4.encoding.messages import read_tools
from dsv4.engine.constraint import Constraint, Together
from dsv4.errors import RequestError

FORMAT = "response_format"
TOOL_CHOICE = "tool_choice"


@dataclass(frozen=True, slots=True)
class Rules:
    """`content`: the segments of which the content is one; None: it is free. `calls`: what
    follows an opener in free text; None: none may come. `begun`: content that is there already.
    `budget`: tokens of reasoning."""

    vocabulary: Vocabulary
    thinking: bool
    content: tuple[Segment, ...] | None
    calls: Calls | None
    begun: str
    budget: int | None

    def constraint(self) -> Constraint:
        """A new follower, for one answer."""
        followed: list[Constraint] = [_Follower(self)]
        if self.budget is not None and self.thinking:
            followed.append(Budget(self.budget, self.vocabulary))
        return followed[0] if len(followed) == 1 else Together(*followed)


def rules(request: Request, grammars: Grammars, *, thinking: bool, begun: str) -> Rules | None:
    """The rules of a request's answer, None if anything goes. Compiles grammars.

    `thinking`: the answer begins inside the reasoning. `begun`: the content it continues.
    Raises RequestError for what cannot be followed.
    """
    tools = _choose(request)
    if not request.tools and request.format is None and request.thinking_budget is None:
        return None
    calls = Calls(tools, grammars, parallel=request.parallel) if tools else None
    content: tuple[Segment, ...] | None = None
    if calls is not None and request.tool_choice != "auto":
        content = tuple(calls.whole())
        begun = ""
    elif request.format is not None:
        body = grammars.compiled(_body(request.format), "", FORMAT)
        content = (Segment(b"", body, grammars.vocabulary.eos_id),)
        if begun and not Course(content, grammars.vocabulary).take(begun.encode()):
            raise RequestError("the prefix does not fit response_format", param="messages")
        if calls is not None and not begun:
            content = (*content, *calls.whole())
    return Rules(grammars.vocabulary, thinking, content, calls, begun, request.thinking_budget)


def _choose(request: Request) -> Sequence[Mapping[str, Any]]:
    """The tools that the answer may call. Raises RequestError for a choice of none there are."""
    tools = read_tools(request.tools)
    choice = request.tool_choice
    if choice == "none":
        return ()
    if isinstance(choice, Named):
        tools = tuple(tool for tool in tools if tool["name"] == choice.name)
        if not tools:
            raise RequestError(f"there is no tool {choice.name[:80]!r} to call", param=TOOL_CHOICE)
    if choice == "required" and not tools:
        raise RequestError("a call is required, but there are no tools", param=TOOL_CHOICE)
    return tools


def _body(wanted: Format) -> Body:
    if not isinstance(wanted, Schema):
        return Regex(checked_pattern(wanted.regex, FORMAT))
    schema = {"type": "object"} if wanted.schema is None else wanted.schema
    root = checked(schema, FORMAT, FORMAT)
    return json_body(root, root, spaced=True)


class _Follower:
    """Reasoning is free up to `</think>`, content as the rules say, a calls block always held to
    its grammar. A Constraint."""

    def __init__(self, rules: Rules) -> None:
        vocabulary = rules.vocabulary
        self._rules = rules
        self._reasoning = rules.thinking
        self._before_dsml = False
        """Whether `<` stands at the end, after which `｜DSML｜` opens a block."""
        self._course: Course | None = None
        self._no_opener_V = ~vocabulary.only(vocabulary.dsml_id)
        # What comes after the reasoning is not free, so the answer cannot end in it.
        self._unending_V = vocabulary.text_V | vocabulary.only(vocabulary.think_close_id)
        if not rules.thinking:
            self._begin_content()

    def allowed(self) -> Tensor | None:
        if self._course is not None:
            return self._course.allowed()
        opens = self._before_dsml and self._rules.calls is not None
        if self._reasoning and self._rules.content is not None:
            opener_V = self._rules.vocabulary.only(self._rules.vocabulary.dsml_id)
            return self._unending_V | opener_V if opens else self._unending_V
        return None if opens else self._no_opener_V

    def accept(self, token: int) -> None:
        vocabulary = self._rules.vocabulary
        if self._course is not None:
            self._course.accept(token)
        elif token == vocabulary.dsml_id:
            assert self._rules.calls is not None
            self._course = Course(self._rules.calls.opened(), vocabulary)
        elif token == vocabulary.think_close_id and self._reasoning:
            self._begin_content()
        self._before_dsml = vocabulary.bytes_of(token).endswith(b"<")

    def _begin_content(self) -> None:
        self._reasoning = False
        if self._rules.content is not None:
            self._course = Course(self._rules.content, self._rules.vocabulary)
            fits = self._course.take(self._rules.begun.encode())
            assert fits  # without the text: what users write is in no log
