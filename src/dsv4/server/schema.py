"""The body of a chat request, and what it asks of the engine.

Unknown fields are ignored, as clients send many; a field we know and cannot honour is refused
rather than ignored.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    PrivateAttr,
    StringConstraints,
    field_validator,
    model_validator,
)

from dsv4.chat.defaults import Defaults
from dsv4.chat.request import Request
from dsv4.errors import RequestError

MOST_TOKENS = 393_216
"""The longest answer the hosted API gives."""

ALIASES = {
    "deepseek-chat": False,
    "deepseek-reasoner": True,
    "deepseek-v4-flash": None,
    "deepseek-v4-pro": None,
}
"""Names of the hosted API that mean the served model -> whether they think by default."""

INTERNAL = ("task", "extracted_url", "wo_eos", "response_format", "tools")
"""Keys of a message that the encoding knows and the API does not: quick tasks, open turns, and
what belongs to the request."""

Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max", "ultra"]


class _Lenient(BaseModel):
    """Unknown fields are ignored, but no value is taken for one of another type."""

    model_config = ConfigDict(extra="ignore", strict=True, protected_namespaces=())


class Thinking(_Lenient):
    type: Literal["enabled", "disabled", "adaptive"]


class StreamOptions(_Lenient):
    include_usage: bool = False


class Function(_Lenient):
    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
    description: str | None = None
    parameters: dict[str, Any] | None = None
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


class Tool(_Lenient):
    type: Literal["function"] = "function"
    function: Function


class ResponseFormat(_Lenient):
    type: str = "text"


class ChatBody(_Lenient):
    """POST /chat/completions. Messages are checked by the encoding, which names the culprit."""

    model: str
    messages: list[dict[str, Any]] = Field(min_length=1)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int, Field(ge=1, le=MOST_TOKENS)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1, le=MOST_TOKENS)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: Annotated[list[str], Field(max_length=16)] | None = None
    thinking: Thinking | None = None
    reasoning_effort: Effort | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    tools: Annotated[list[Tool], Field(max_length=128)] | None = None
    tool_choice: str | dict[str, Any] | None = None
    response_format: ResponseFormat | None = None
    n: int | None = None
    logprobs: bool | None = None

    @field_validator("stop", mode="before")
    @classmethod
    def _as_list(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    def request(self, defaults: Defaults) -> Request:
        """What the engine has to do. Raises RequestError for what this server cannot."""
        self._refuse_unsupported()
        sampling = defaults.sampling(
            self.seed,
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            min_p=self.min_p,
        )
        tools = [{"type": "function", "function": t.function.as_sent()} for t in self.tools or ()]
        limits = (self.max_completion_tokens, self.max_tokens, defaults.max_tokens)
        return Request(
            messages=self.messages,
            tools=() if self.tool_choice == "none" else tools,
            effort=self._effort(defaults),
            sampling=sampling,
            max_tokens=next(limit for limit in limits if limit is not None),
            stop=tuple(self.stop or ()),
        )

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
        for field, bad, instead in (
            ("n", self.n not in (None, 1), "n = 1"),
            ("logprobs", bool(self.logprobs), "no logprobs"),
            (
                "response_format",
                self.response_format is not None and self.response_format.type != "text",
                "type text",
            ),
            ("tool_choice", self.tool_choice not in (None, "none", "auto"), "none or auto"),
        ):
            if bad:
                raise RequestError(f"{field}: this server supports {instead} only", param=field)
        for i, message in enumerate(self.messages):
            for key in INTERNAL:
                if message.get(key) is not None:
                    raise RequestError(
                        f"messages[{i}] has {key}, which is no part of this API",
                        param=f"messages.{i}.{key}",
                    )
