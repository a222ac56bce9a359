"""The body of POST /v1/messages, Anthropic's dialect, and what it asks of the engine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from dsv4.chat.defaults import Defaults
from dsv4.chat.request import Named, Request, ToolChoice
from dsv4.errors import RequestError
from dsv4.server.body import Lenient
from dsv4.server.sampling import (
    MOST_TOOLS,
    Count,
    Effort,
    Name,
    SamplingFields,
    Stops,
    Thinking,
    chosen,
    function_tool,
    read_format,
)

SERVER_TOOLS = ("web_search", "web_fetch", "code_execution")
"""Begin the types of tools that Anthropic runs; the model is not told of them."""

_IGNORED_BLOCKS = ("server_tool_use", "web_search_tool_result")


class OutputFormat(Lenient):
    type: Literal["json_schema"]
    schema_: dict[str, Any] = Field(alias="schema")


class OutputConfig(Lenient):
    effort: Effort | None = None
    format: OutputFormat | None = None


class Choice(Lenient):
    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class Metadata(Lenient):
    user_id: Annotated[str, Field(max_length=512)] | None = None


class Tool(Lenient):
    type: str | None = None
    name: Name
    description: str | None = None
    input_schema: dict[str, Any] | None = None
    strict: bool | None = None


class Turn(Lenient):
    role: Literal["user", "assistant", "system"]
    content: str | list[dict[str, Any]]


class CountBody(SamplingFields):
    """POST /v1/messages/count_tokens: the same without a limit."""

    model: str
    messages: list[Turn] = Field(min_length=1)
    system: str | list[dict[str, Any]] | None = None
    stop_sequences: Stops | None = None
    tools: Annotated[list[Tool], Field(max_length=MOST_TOOLS)] | None = None
    tool_choice: Choice | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None
    output_format: OutputFormat | None = None
    metadata: Metadata | None = None

    def request(self, defaults: Defaults, max_tokens: int = 1) -> Request:
        """What the engine has to do. Raises RequestError for blocks that a text model cannot
        read."""
        tools = list(self._tools())
        config = self.output_config or OutputConfig()
        shape = config.format or self.output_format
        choice = self.tool_choice
        return Request(
            messages=list(self._messages()),
            tools=tools,
            effort=self._effort(config),
            sampling=self.sampling(defaults),
            max_tokens=max_tokens,
            stop=tuple(self.stop_sequences or ()),
            tool_choice=chosen(self._choice(), tools),
            parallel=choice is None or not choice.disable_parallel_tool_use,
            format=None if shape is None else read_format(shape.type, shape.schema_, None),
            thinking_budget=self.thinking.budget_tokens if self.thinking is not None else None,
            user=(self.metadata.user_id if self.metadata is not None else None) or "",
        )

    def _effort(self, config: OutputConfig) -> str:
        """Clients of this dialect ask for thinking when they want it."""
        if self.thinking is None or self.thinking.type == "disabled":
            return "none"
        return config.effort or "high"

    def _choice(self) -> ToolChoice:
        if self.tool_choice is None or self.tool_choice.type == "auto":
            return "auto"
        if self.tool_choice.type == "tool":
            return Named(self.tool_choice.name or "")
        return "required" if self.tool_choice.type == "any" else "none"

    def _tools(self) -> Iterator[dict[str, Any]]:
        for i, tool in enumerate(self.tools or ()):
            if tool.type is not None and tool.type.startswith(SERVER_TOOLS):
                continue
            if tool.type not in (None, "custom") or tool.input_schema is None:
                raise RequestError(
                    f"tools.{i}: this server knows tools with an input_schema only",
                    param=f"tools.{i}",
                )
            function: dict[str, Any] = {"name": tool.name}
            if tool.description is not None:
                function["description"] = tool.description
            function["parameters"] = tool.input_schema
            if tool.strict is not None:
                function["strict"] = tool.strict
            yield function_tool(function)

    def _messages(self) -> Iterator[dict[str, Any]]:
        if self.system is not None:
            yield {"role": "system", "content": _text(self.system, "system")}
        for i, turn in enumerate(self.messages):
            where = f"messages.{i}"
            if turn.role == "assistant":
                message = _assistant(turn.content, where)
                if i == len(self.messages) - 1:
                    if "tool_calls" in message:
                        raise RequestError(f"{where}: tool_use without a tool_result", param=where)
                    message["prefix"] = True
                yield message
            elif turn.role == "system":
                yield {"role": "system", "content": _text(turn.content, where)}
            else:
                yield from _user(turn.content, where)


class MessagesBody(CountBody):
    """POST /v1/messages."""

    max_tokens: Count
    stream: bool | None = None

    def asked(self, defaults: Defaults) -> Request:
        """`request`, with the limit of this body."""
        return self.request(defaults, self.max_tokens)


def _text(content: str | list[dict[str, Any]], where: str) -> str:
    """The text of a string or of text blocks."""
    if isinstance(content, str):
        return content
    return "\n\n".join(_field(block, "text", where) for block in _blocks(content, where, "text"))


def _user(content: str | list[dict[str, Any]], where: str) -> Iterator[dict[str, Any]]:
    """Messages of a user turn: its results and its texts, in their order."""
    if isinstance(content, str):
        yield {"role": "user", "content": content}
        return
    for block in _blocks(content, where, "text", "tool_result"):
        if block["type"] == "text":
            yield {"role": "user", "content": _field(block, "text", where)}
        else:
            result = block.get("content")
            yield {
                "role": "tool",
                "tool_call_id": _field(block, "tool_use_id", where),
                "content": "" if result is None else result,
            }


def _assistant(content: str | list[dict[str, Any]], where: str) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": content}
    if isinstance(content, str):
        return message
    texts, thoughts, calls = [], [], []
    for block in _blocks(content, where, "text", "thinking", "tool_use"):
        if block["type"] == "text":
            texts.append(_field(block, "text", where))
        elif block["type"] == "thinking":
            thoughts.append(_field(block, "thinking", where))
        else:
            function = {"name": block.get("name"), "arguments": block.get("input")}
            call = {"id": _field(block, "id", where), "type": "function", "function": function}
            calls.append(call)
    message["content"] = "\n\n".join(texts)
    if thoughts:
        message["reasoning_content"] = "\n\n".join(thoughts)
    if calls:
        message["tool_calls"] = calls
    return message


def _blocks(content: list[dict[str, Any]], where: str, *kinds: str) -> Iterator[Mapping[str, Any]]:
    """The blocks of a content. Raises RequestError for one that is of none of the kinds."""
    for i, block in enumerate(content):
        kind = block.get("type")
        if kind in _IGNORED_BLOCKS:
            continue
        if kind not in kinds:
            raise RequestError(
                f"{where}.content.{i}: blocks of type {str(kind)[:40]!r} are not supported here",
                param=f"{where}.content.{i}",
            )
        yield block


def _field(block: Mapping[str, Any], key: str, where: str) -> str:
    value = block.get(key)
    if not isinstance(value, str):
        raise RequestError(f"{where}: a {block['type']} block has no {key}", param=where)
    return value
