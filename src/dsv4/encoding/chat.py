"""The V4 chat encoding: messages -> Prompt. V4 ships no Jinja template; this is it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from dsv4.encoding.control import (
    ASSISTANT,
    BOS,
    EOS,
    EXTRACTED_URL,
    LATEST_REMINDER,
    TASKS,
    THINK_CLOSE,
    THINK_OPEN,
    USER,
)
from dsv4.encoding.dsml import json_text, write_calls
from dsv4.encoding.messages import Message, read_messages, read_tools
from dsv4.encoding.prepare import attach, drop_old_thinking, fold, last_user_index
from dsv4.encoding.prompt import Prompt, PromptBuilder
from dsv4.encoding.template import RESPONSE_FORMAT_HEAD, TOOLS_HEAD, TOOLS_TAIL, profile
from dsv4.errors import EncodingError

Recall = Callable[[Message, bool, bytes], tuple[int, ...] | None]
"""Called with an assistant's message, whether it shows its reasoning and the digest of the prompt
before it: the ids of the message up to EOS, None if they are not known."""


def render(
    messages: Iterable[Message | Mapping[str, Any]],
    *,
    profile_name: str = "launch",
    thinking: bool = True,
    effort: str | None = None,
    tools: Sequence[Mapping[str, Any]] | None = None,
    schema: Mapping[str, Any] | None = None,
    drop_thinking: bool = True,
    recall: Recall | None = None,
) -> Prompt:
    """Write a conversation as the prompt a V4 checkpoint continues.

    messages: Message objects or OpenAI-shaped mappings.
    profile_name: "launch" or "0731" (template.PROFILES): which effort levels exist.
    effort: a level of that profile, None for none; it has no effect without thinking.
    tools: OpenAI tools or bare function objects. schema: JSON schema of the answer.
    drop_thinking: forget the reasoning of earlier turns; never done when tools are declared.
    recall: knows how the model wrote some of the assistant's messages; these are not written
        anew.

    Raises EncodingError for a conversation that can not be written.
    """
    prefix = profile(profile_name).effort_prefix(effort)
    if schema is not None and not isinstance(schema, Mapping):
        raise EncodingError("the answer's schema must be a JSON object")
    read = read_messages(messages)
    if read[-1].prefix and read[-1].reasoning is None:
        thinking = False
    prepared = fold(attach(read, read_tools(tools), schema))
    drop = drop_thinking and not any(message.tools for message in prepared)
    if thinking and drop:
        prepared = drop_old_thinking(prepared)

    builder = PromptBuilder()
    builder.control(BOS)
    if thinking:
        builder.template(prefix)
    last_user = last_user_index(prepared)
    for i, message in enumerate(prepared):
        after_task = i > 0 and prepared[i - 1].task is not None
        reasons = thinking and not after_task and (not drop or i > last_user)
        drawn = _recalled(recall, message, reasons, builder)
        if drawn is None:
            _write(builder, message, reasons)
        else:
            builder.drawn(drawn)
        is_last = i == len(prepared) - 1
        if is_last or prepared[i + 1].role in ("assistant", "latest_reminder"):
            _write_transition(builder, message, thinking, thinking and (not drop or i >= last_user))
    return builder.build()


def _recalled(
    recall: Recall | None, message: Message, reasons: bool, builder: PromptBuilder
) -> tuple[int, ...] | None:
    if recall is None or message.role != "assistant" or message.wo_eos or message.prefix:
        return None
    return recall(message, reasons, builder.digest())


def render_reply(message: Message | Mapping[str, Any], *, thinking: bool) -> Prompt:
    """What the model has to write for one assistant message, from the end of the prompt to EOS."""
    (read,) = read_messages([message])
    if read.role != "assistant":
        raise EncodingError(f"a reply is an assistant message, not {read.role}")
    builder = PromptBuilder()
    _write(builder, read, thinking)
    return builder.build()


def _write(builder: PromptBuilder, message: Message, reasons: bool) -> None:
    """One message without what follows it. `reasons`: an assistant shows its reasoning."""
    if message.role == "assistant":
        if reasons:
            builder.content(message.reasoning or "")
            builder.control(THINK_CLOSE)
        builder.content(message.content)
        if message.tool_calls:
            builder.template("\n\n")
            write_calls(builder, message.tool_calls)
        if not (message.wo_eos or message.prefix):
            builder.control(EOS)
        return
    if message.role in ("user", "developer"):
        builder.control(USER)
    elif message.role == "latest_reminder":
        builder.control(LATEST_REMINDER)
    builder.content(message.content)
    if message.extracted_url is not None:
        builder.control(EXTRACTED_URL)
        builder.content(message.extracted_url)
    if message.tools:
        builder.template("\n\n" + TOOLS_HEAD)
        builder.content("\n".join(json_text(tool) for tool in message.tools))
        builder.template(TOOLS_TAIL)
    if message.schema is not None:
        builder.template("\n\n" + RESPONSE_FORMAT_HEAD)
        builder.content(json_text(message.schema))


def _write_transition(
    builder: PromptBuilder, message: Message, thinking: bool, opens_thinking: bool
) -> None:
    """What stands between a message and the answer to it."""
    if message.task == "action":
        builder.control(ASSISTANT)
        builder.control(THINK_OPEN if thinking else THINK_CLOSE)
        builder.control(TASKS["action"])
    elif message.task is not None:
        builder.control(TASKS[message.task])
    elif message.role in ("user", "developer"):
        builder.control(ASSISTANT)
        builder.control(THINK_OPEN if opens_thinking else THINK_CLOSE)
