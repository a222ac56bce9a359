"""Fields that several dialects share: how tokens are drawn, tools, formats, effort."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    ModelWrapValidatorHandler,
    PrivateAttr,
    StringConstraints,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from dsv4.chat.defaults import Defaults
from dsv4.chat.request import Format, Named, Pattern, Schema, ToolChoice
from dsv4.engine.sampler import Sampling
from dsv4.errors import RequestError
from dsv4.server.body import Lenient

MOST_STOPS = 16
MOST_STOP_LENGTH = 1000
MOST_TOOLS = 128
MOST_BIASES = 1024

Count = Annotated[int, Field(ge=1)]
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max", "ultra"]
Stops = Annotated[
    list[Annotated[str, Field(max_length=MOST_STOP_LENGTH)]], Field(max_length=MOST_STOPS)
]
TopLogprobs = Annotated[int, Field(ge=0, le=20)]


class SamplingFields(Lenient):
    """How the tokens of an answer are drawn, and where it ends."""

    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    logit_bias: (
        Annotated[
            dict[
                Annotated[str, StringConstraints(pattern=r"^[0-9]{1,9}$")],
                Annotated[float, Field(ge=-100, le=100)],
            ],
            Field(max_length=MOST_BIASES),
        ]
        | None
    ) = None

    def sampling(self, defaults: Defaults) -> Sampling:
        """These values, the model's where none are given."""
        bias = tuple((int(token), amount) for token, amount in (self.logit_bias or {}).items())
        return defaults.sampling(
            self.seed,
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            min_p=self.min_p,
            presence_penalty=self.presence_penalty,
            frequency_penalty=self.frequency_penalty,
            bias=bias,
        )


class StopFields(Lenient):
    """Strings that end an answer."""

    stop: Stops | None = Field(
        default=None, json_schema_extra={"description": "A string alone is taken too."}
    )

    @field_validator("stop", mode="before")
    @classmethod
    def _as_list(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value


class Thinking(Lenient):
    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: Count | None = None


class StreamOptions(Lenient):
    include_usage: bool | None = None


class Function(Lenient):
    """A function the model may call."""

    name: Name
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None
    _sent: dict[str, Any] = PrivateAttr()

    @model_validator(mode="wrap")
    @classmethod
    def _keep(cls, value: Any, check: ModelWrapValidatorHandler[Function]) -> Function:
        made = check(value)
        made._sent = value
        return made

    def as_sent(self) -> dict[str, Any]:
        """The client's object, keys in its order and unknown ones included: this is what the
        prompt shows the model."""
        return self._sent


MESSAGE_SCHEMA = {
    "type": "object",
    "properties": {
        "role": {
            "type": "string",
            "enum": ["system", "developer", "user", "assistant", "tool", "latest_reminder"],
        },
        "content": {
            "anyOf": [
                {"type": "string"},
                {"type": "null"},
                {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "properties": {"type": {"const": "text"}, "text": {"type": "string"}},
                        "required": ["type", "text"],
                    },
                },
            ]
        },
        "reasoning_content": {"type": ["string", "null"]},
        "tool_calls": {"type": ["array", "null"], "items": {"type": "object"}},
        "tool_call_id": {"type": ["string", "null"]},
        "prefix": {"type": ["boolean", "null"]},
    },
    "required": ["role", "content"],
}
"""A message of a chat, for the API document; the encoding checks it."""

ChatMessage = Annotated[dict[str, Any], WithJsonSchema(MESSAGE_SCHEMA)]


def function_tool(function: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "function", "function": function}


def chosen(choice: ToolChoice, tools: Sequence[Mapping[str, Any]]) -> ToolChoice:
    """The choice, if it fits the tools. Raises RequestError for a tool that is not among them."""
    names = [tool["function"]["name"] for tool in tools]
    if isinstance(choice, Named) and choice.name not in names:
        raise RequestError(
            f"tool_choice names {choice.name!r}, which is none of the tools", param="tool_choice"
        )
    if choice == "required" and not names:
        raise RequestError("tool_choice asks for a call, but there are no tools", param="tools")
    return choice


def read_format(kind: str, schema: Mapping[str, Any] | None, regex: str | None) -> Format | None:
    """The format of an answer. Raises RequestError for one that lacks its schema or pattern."""
    if kind == "json_object":
        return Schema()
    if kind == "json_schema":
        if schema is None:
            raise RequestError("a json_schema format needs a schema", param="response_format")
        return Schema(schema)
    if kind == "regex":
        if regex is None:
            raise RequestError("a regex format needs a regex", param="response_format")
        return Pattern(regex)
    return None
