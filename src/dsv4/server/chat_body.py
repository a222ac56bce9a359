"""The body of a chat request, and what it asks of the engine.

Unknown fields are ignored, as clients send many; a field we know and cannot honour is refused
rather than ignored.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from dsv4.chat.defaults import Defaults
from dsv4.chat.request import Format, Named, Request, ToolChoice
from dsv4.errors import RequestError
from dsv4.server.body import Lenient, first_given
from dsv4.server.names import ALIASES
from dsv4.server.sampling import (
    MOST_TOOLS,
    ChatMessage,
    Count,
    Effort,
    Function,
    Name,
    SamplingFields,
    StopFields,
    StreamOptions,
    Thinking,
    TopLogprobs,
    chosen,
    function_tool,
    read_format,
)

INTERNAL = ("task", "extracted_url", "wo_eos", "response_format", "tools")
"""Keys of a message that the encoding knows and the API does not: quick tasks, open turns, and
what belongs to the request."""


class Tool(Lenient):
    type: Literal["function"] = "function"
    function: Function


class FunctionName(Lenient):
    name: Name


class NamedTool(Lenient):
    type: Literal["function"] = "function"
    function: FunctionName


class JsonSchema(Lenient):
    name: str | None = None
    description: str | None = None
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")
    strict: bool | None = None


class ResponseFormat(Lenient):
    type: Literal["text", "json_object", "json_schema", "regex"] = "text"
    json_schema: JsonSchema | None = None
    regex: str | None = None

    def read(self) -> Format | None:
        """Raises RequestError for a format that is not whole."""
        schema = self.json_schema.schema_ if self.json_schema is not None else None
        return read_format(self.type, schema, self.regex)


class ChatBody(SamplingFields, StopFields):
    """POST /chat/completions. Messages are checked by the encoding, which names the culprit."""

    model: str
    messages: list[ChatMessage] = Field(min_length=1)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Count | None = None
    max_completion_tokens: Count | None = None
    thinking: Thinking | None = None
    reasoning_effort: Effort | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    tools: Annotated[list[Tool], Field(max_length=MOST_TOOLS)] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None
    n: int | None = None
    logprobs: bool | None = None
    top_logprobs: TopLogprobs | None = None
    user: Annotated[str, Field(max_length=512)] | None = None
    user_id: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,512}$")] | None = None

    @property
    def include_usage(self) -> bool:
        return self.stream_options is not None and bool(self.stream_options.include_usage)

    def request(self, defaults: Defaults) -> Request:
        """What the engine has to do. Raises RequestError for what this server cannot."""
        self._refuse_unsupported()
        tools = [function_tool(tool.function.as_sent()) for tool in self.tools or ()]
        limit = first_given(self.max_completion_tokens, self.max_tokens, defaults.max_tokens)
        return Request(
            messages=self.messages,
            tools=tools,
            effort=self._effort(defaults),
            sampling=self.sampling(defaults),
            max_tokens=limit,
            stop=tuple(self.stop or ()),
            tool_choice=chosen(self._choice(), tools),
            parallel=self.parallel_tool_calls is not False,
            format=self.response_format.read() if self.response_format is not None else None,
            thinking_budget=self.thinking.budget_tokens if self.thinking is not None else None,
            logprobs=(self.top_logprobs or 0) if self.logprobs else None,
            user=self.user_id or self.user or "",
        )

    def _choice(self) -> ToolChoice:
        if isinstance(self.tool_choice, NamedTool):
            return Named(self.tool_choice.function.name)
        return self.tool_choice or "auto"

    def _effort(self, defaults: Defaults) -> str:
        """The first of these that speaks: thinking, template arguments, effort, model name."""
        wanted = self.reasoning_effort if self.reasoning_effort not in (None, "none") else "high"
        template = self.chat_template_kwargs or {}
        for key in ("thinking", "enable_thinking"):
            if self.thinking is None and isinstance(template.get(key), bool):
                return str(wanted) if template[key] else "none"
        if self.thinking is not None:
            return "none" if self.thinking.type == "disabled" else str(wanted)
        if self.reasoning_effort is not None:
            return self.reasoning_effort
        by_name = ALIASES.get(self.model)
        return "high" if (defaults.thinking if by_name is None else by_name) else "none"

    def _refuse_unsupported(self) -> None:
        if self.n not in (None, 1):
            raise RequestError("n: this server supports n = 1 only", param="n")
        if self.top_logprobs is not None and not self.logprobs:
            raise RequestError("top_logprobs needs logprobs: true", param="top_logprobs")
        for i, message in enumerate(self.messages):
            for key in INTERNAL:
                if message.get(key) is not None:
                    raise RequestError(
                        f"messages[{i}] has {key}, which is no part of this API",
                        param=f"messages.{i}.{key}",
                    )
