"""What a caller asks for: a conversation and how to answer it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from dsv4.encoding.messages import Message
from dsv4.engine.request import MOST_ALTERNATIVES
from dsv4.engine.sampler import Sampling
from dsv4.errors import UsageError

# What the levels that clients send mean in the prompt of a checkpoint. The launch checkpoints
# know one level above plain thinking, those of July 2026 two and a shorter one.
_LEVELS: dict[str, dict[str, str]] = {
    "launch": {
        "minimal": "high",
        "low": "high",
        "medium": "high",
        "high": "high",
        "xhigh": "max",
        "max": "max",
        "ultra": "max",
    },
    "0731": {
        "minimal": "low",
        "low": "low",
        "medium": "high",
        "high": "high",
        "xhigh": "high",
        "max": "max",
        "ultra": "max",
    },
}
LEVELS = ("none", *_LEVELS["launch"])
"""Every effort a caller may ask for; `none` turns thinking off."""


def check_effort(effort: str) -> None:
    """Raises UsageError if `effort` is none of LEVELS."""
    if effort not in LEVELS:
        raise UsageError(f"effort {effort!r} is unknown", f"one of {', '.join(LEVELS)}")


@dataclass(frozen=True, slots=True)
class Schema:
    """The answer's content is JSON that fits `schema`; None: any JSON object.

    `described`: the prompt shows the schema to the model, as the template can.
    """

    schema: Mapping[str, Any] | None = None
    described: bool = True


@dataclass(frozen=True, slots=True)
class Pattern:
    """The answer's content matches this regular expression as a whole."""

    regex: str


Format = Schema | Pattern


@dataclass(frozen=True, slots=True)
class Named:
    """The answer calls this tool."""

    name: str


ToolChoice = Literal["none", "auto", "required"] | Named
"""Whether the answer may, must or must not call tools, or which one it calls."""


@dataclass(frozen=True, slots=True)
class Request:
    """One answer to produce.

    `messages`: Message objects or OpenAI-shaped mappings; the last may be an assistant's with
    `prefix`, which is continued. `effort`: one of LEVELS (`none`: do not think). `stop`: the
    answer's content ends before the first of these strings. `format`: what the content looks
    like (None: free). `parallel`: more than one call per answer. `thinking_budget`: tokens after
    which thinking is ended. `logprobs`: alternatives reported per token (None: no report).
    `user`: whose request it is, for fair shares and the prefix cache.
    """

    messages: Sequence[Message | Mapping[str, Any]]
    tools: Sequence[Mapping[str, Any]] = ()
    effort: str = "high"
    sampling: Sampling = field(default_factory=Sampling)
    max_tokens: int = 4096
    stop: tuple[str, ...] = ()
    tool_choice: ToolChoice = "auto"
    parallel: bool = True
    format: Format | None = None
    thinking_budget: int | None = None
    logprobs: int | None = None
    user: str = ""

    def __post_init__(self) -> None:
        check_effort(self.effort)
        _check_numbers(self)
        if self.thinking_budget is not None and self.thinking_budget < 0:
            raise UsageError(
                f"thinking_budget = {self.thinking_budget} is out of range", "0 or more"
            )

    @property
    def thinking(self) -> bool:
        return self.effort != "none"

    def level(self, profile: str) -> str | None:
        """The effort as `profile` spells it, None when not thinking."""
        return _LEVELS[profile][self.effort] if self.thinking else None


@dataclass(frozen=True, slots=True)
class Completion:
    """Plain text to continue, without a template; with a `suffix`: what belongs between the
    two. `echo`: the prompt is part of the answer's text. The other fields as in Request."""

    prompt: str
    suffix: str | None = None
    sampling: Sampling = field(default_factory=Sampling)
    max_tokens: int = 4096
    stop: tuple[str, ...] = ()
    echo: bool = False
    logprobs: int | None = None
    user: str = ""

    def __post_init__(self) -> None:
        _check_numbers(self)


def _check_numbers(request: Request | Completion) -> None:
    if request.max_tokens < 1:
        raise UsageError(f"max_tokens = {request.max_tokens} is out of range", "at least 1")
    if request.logprobs is not None and not 0 <= request.logprobs <= MOST_ALTERNATIVES:
        raise UsageError(
            f"logprobs = {request.logprobs} is out of range", f"0 to {MOST_ALTERNATIVES}"
        )
