"""What happens to a conversation before it is written: tools attached, turns folded, old
reasoning dropped (the order of the steps matters)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from dsv4.encoding.messages import Message


@dataclass(slots=True)
class _Block:
    """One part of a user turn; `call_id` is None for the user's own text."""

    text: str
    is_result: bool = False
    call_id: str | None = None


@dataclass(slots=True)
class _Turn:
    message: Message
    blocks: list[_Block] = field(default_factory=list)
    """Parts of a user turn; empty for any other message."""


def attach(
    messages: Sequence[Message],
    tools: tuple[Mapping[str, Any], ...],
    schema: Mapping[str, Any] | None,
) -> list[Message]:
    """Put the request's tools and schema on the first system message, made if there is none."""
    attached = list(messages)
    if not tools and schema is None:
        return attached
    at = next((i for i, m in enumerate(attached) if m.role == "system"), None)
    if at is None:
        attached.insert(0, Message("system"))
        at = 0
    first = attached[at]
    attached[at] = replace(
        first, tools=tools or first.tools, schema=first.schema if schema is None else schema
    )
    return attached


def fold(messages: Sequence[Message]) -> list[Message]:
    """Make one user turn of every run of user and tool messages.

    Results come back in any order; within a turn they are sorted into the order of the calls
    they answer (an unknown id counts as the first call), in the slots results had. A user
    message with a task ends its turn for later user text.
    """
    turns: list[_Turn] = []
    for message in messages:
        if message.role not in ("user", "tool"):
            turns.append(_Turn(message))
            continue
        if message.role == "tool":
            text = f"<tool_result>{message.content}</tool_result>"
            block = _Block(text, True, message.tool_call_id)
        else:
            block = _Block(message.content)
        last = turns[-1] if turns else None
        if last is None or not last.blocks or (message.role == "user" and last.message.task):
            last = _Turn(Message("user"))
            turns.append(last)
        last.blocks.append(block)
        if message.task:
            last.message = replace(
                last.message, task=message.task, extracted_url=message.extracted_url
            )

    folded = []
    order: dict[str, int] = {}
    for turn in turns:
        if turn.message.tool_calls:
            order = {call.id: i for i, call in enumerate(turn.message.tool_calls) if call.id}
        if turn.blocks:
            content = "\n\n".join(block.text for block in _sorted(turn.blocks, order))
            folded.append(replace(turn.message, content=content))
        else:
            folded.append(turn.message)
    return folded


def drop_old_thinking(messages: Sequence[Message]) -> list[Message]:
    """Forget reasoning and developer turns from before the last user turn."""
    last = last_user_index(messages)
    kept = []
    for i, message in enumerate(messages):
        if i < last and message.role == "developer":
            continue
        if i < last and message.role == "assistant":
            message = replace(message, reasoning=None)
        kept.append(message)
    return kept


def last_user_index(messages: Sequence[Message]) -> int:
    """Index of the last user or developer turn, -1 if there is none."""
    return max((i for i, m in enumerate(messages) if m.role in ("user", "developer")), default=-1)


def _sorted(blocks: list[_Block], order: Mapping[str, int]) -> list[_Block]:
    results = iter(
        sorted(
            (block for block in blocks if block.is_result),
            key=lambda block: order.get(block.call_id or "", 0),
        )
    )
    return [next(results) if block.is_result else block for block in blocks]
