"""The body of POST /v1/responses, and what it asks of the engine."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from dsv4.chat.defaults import Defaults
from dsv4.chat.request import Named, Request, ToolChoice
from dsv4.errors import RequestError
from dsv4.server.body import Lenient, first_given
from dsv4.server.names import ALIASES
from dsv4.server.responses_items import conversation
from dsv4.server.sampling import (
    MOST_TOOLS,
    Count,
    Effort,
    Name,
    SamplingFields,
    TopLogprobs,
    chosen,
    function_tool,
    read_format,
)

LOGPROBS = "message.output_text.logprobs"
"""What `include` holds when the client wants log-probabilities."""


class Reasoning(Lenient):
    effort: Effort | None = None
    summary: str | None = None


class TextFormat(Lenient):
    type: Literal["text", "json_object", "json_schema", "regex"] = "text"
    name: str | None = None
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")
    regex: str | None = None
    strict: bool | None = None


class Text(Lenient):
    format: TextFormat | None = None
    verbosity: str | None = None


class FunctionTool(Lenient):
    """Also custom tools, whose input is text, and those that the model is not told of."""

    type: str
    name: Name | None = None
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Choice(Lenient):
    type: str
    name: str | None = None
    mode: Literal["auto", "required"] | None = None
    tools: list[dict[str, Any]] | None = None


class ResponsesBody(SamplingFields):
    """POST /responses. Nothing is stored: every request brings its whole conversation."""

    model: str
    input: str | list[dict[str, Any]]
    instructions: str | None = None
    stream: bool | None = None
    max_output_tokens: Count | None = None
    top_logprobs: TopLogprobs | None = None
    include: list[str] | None = None
    tools: Annotated[list[FunctionTool], Field(max_length=MOST_TOOLS)] | None = None
    tool_choice: Literal["none", "auto", "required"] | Choice | None = None
    parallel_tool_calls: bool | None = None
    reasoning: Reasoning | None = None
    text: Text | None = None
    metadata: dict[str, Any] | None = None
    user: Annotated[str, Field(max_length=512)] | None = None

    @property
    def custom(self) -> frozenset[str]:
        """Names of the tools whose input is text."""
        return frozenset(t.name for t in self.tools or () if t.type == "custom" and t.name)

    def request(self, defaults: Defaults) -> Request:
        """What the engine has to do. Raises RequestError for items nobody can read."""
        tools = self._allowed([*self._tools()])
        shape = (self.text.format if self.text is not None else None) or TextFormat()
        reported = LOGPROBS in (self.include or ()) or bool(self.top_logprobs)
        return Request(
            messages=conversation(self.instructions, self.input),
            tools=tools,
            effort=self._effort(defaults),
            sampling=self.sampling(defaults),
            max_tokens=first_given(self.max_output_tokens, defaults.max_tokens),
            tool_choice=chosen(self._choice(), tools),
            parallel=self.parallel_tool_calls is not False,
            format=read_format(shape.type, shape.schema_, shape.regex),
            logprobs=(self.top_logprobs or 0) if reported else None,
            user=self.user or "",
        )

    def echo(self, defaults: Defaults) -> dict[str, Any]:
        """What of the request stands in its response."""
        sampling = self.sampling(defaults)
        asked = self.model_dump(mode="json", by_alias=True, exclude_none=True)
        return {
            "instructions": self.instructions,
            "max_output_tokens": self.max_output_tokens,
            "metadata": self.metadata or {},
            "parallel_tool_calls": self.parallel_tool_calls is not False,
            "reasoning": {"effort": self._effort(defaults), "summary": None},
            "temperature": sampling.temperature,
            "text": {"format": asked.get("text", {}).get("format", {"type": "text"})},
            "tool_choice": asked.get("tool_choice", "auto"),
            "tools": [_echoed(tool) for tool in asked.get("tools", ())],
            "top_logprobs": self.top_logprobs or 0,
            "top_p": sampling.top_p,
            "user": self.user,
        }

    def _effort(self, defaults: Defaults) -> str:
        if self.reasoning is not None and self.reasoning.effort is not None:
            return self.reasoning.effort
        by_name = ALIASES.get(self.model)
        return "high" if (defaults.thinking if by_name is None else by_name) else "none"

    def _choice(self) -> ToolChoice:
        choice = self.tool_choice
        if not isinstance(choice, Choice):
            return choice or "auto"
        if choice.type in ("function", "custom"):
            return Named(choice.name or "")
        if choice.type == "allowed_tools":
            return choice.mode or "auto"
        raise RequestError(
            f"tool_choice of type {choice.type[:40]!r} is not supported", param="tool_choice"
        )

    def _allowed(self, tools: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The tools, without those that `allowed_tools` leaves out."""
        choice = self.tool_choice
        if not isinstance(choice, Choice) or choice.type != "allowed_tools":
            return tools
        names = [tool.get("name") for tool in choice.tools or ()]
        return [tool for tool in tools if tool["function"]["name"] in names]

    def _tools(self) -> list[dict[str, Any]]:
        """As functions. Tools that the hosting company would run are left out."""
        tools = []
        for i, tool in enumerate(self.tools or ()):
            if tool.type not in ("function", "custom"):
                continue
            if tool.name is None:
                raise RequestError(f"tools.{i} has no name", param=f"tools.{i}.name")
            function: dict[str, Any] = {"name": tool.name}
            if tool.description is not None:
                function["description"] = tool.description
            function["parameters"] = (
                CUSTOM_PARAMETERS if tool.type == "custom" else tool.parameters or {}
            )
            if tool.strict:
                function["strict"] = True
            tools.append(function_tool(function))
        return tools


CUSTOM_PARAMETERS = {
    "type": "object",
    "properties": {"input": {"type": "string"}},
    "required": ["input"],
}
"""A tool whose input is text, as a function."""


def _echoed(tool: dict[str, Any]) -> dict[str, Any]:
    if tool["type"] != "function":
        return tool
    return {"parameters": {}, "strict": False, **tool}
