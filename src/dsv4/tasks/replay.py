"""Problems from conversations that happened: what was called at each turn is to be called again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from dsv4.encoding.dsml import history_arguments, json_text
from dsv4.encoding.events import Reply
from dsv4.encoding.messages import Message
from dsv4.tasks.checks import Calls
from dsv4.tasks.problem import Problem


def call_problems(
    name: str, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]
) -> Iterator[Problem]:
    """One problem, without thinking, for every message of the assistant that calls tools.

    The prompt is the conversation before it, as it was.
    """
    for i, message in enumerate(messages):
        if message.role == "assistant" and message.tool_calls:
            calls = tuple(
                replace(call, arguments=json_text(history_arguments(call.arguments)), id=None)
                for call in message.tool_calls
            )
            reply = Reply(None, message.content, calls)
            yield Problem(name, tuple(messages[:i]), reply, Calls(calls), tools=tuple(tools))
