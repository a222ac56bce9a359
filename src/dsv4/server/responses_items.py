"""Items of a response's input as messages of a conversation."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from typing import Any

from dsv4.errors import RequestError

SEAL = "dsv4:"
"""Begins the `encrypted_content` that we write: the reasoning, for clients that pass on nothing
else of it. It hides nothing from anybody."""

_IGNORED = ("web_search_call", "item_reference", "compaction")
_TEXTS = ("input_text", "output_text", "text", "reasoning_text", "summary_text")


def seal(reasoning: str) -> str:
    return SEAL + base64.b64encode(reasoning.encode()).decode()


def conversation(instructions: str | None, items: str | Sequence[Any]) -> list[dict[str, Any]]:
    """The messages that instructions and items amount to.

    Reasoning, text and calls that follow each other are one message of the assistant's. Raises
    RequestError for an item that cannot be read.
    """
    messages: list[dict[str, Any]] = []
    if instructions:
        messages.append({"role": "system", "content": instructions})
    if isinstance(items, str):
        return [*messages, {"role": "user", "content": items}]
    for i, item in enumerate(items):
        where = f"input.{i}"
        kind = item.get("type", "message")
        if kind in _IGNORED:
            continue
        if kind == "message":
            _add_message(messages, item, where)
        elif kind == "reasoning":
            turn = _assistant(messages, closed=("content", "tool_calls"))
            turn["reasoning_content"] = turn.get("reasoning_content", "") + _reasoning(item, where)
        elif kind in ("function_call", "custom_tool_call"):
            turn = _assistant(messages)
            turn.setdefault("tool_calls", []).append(_call(item, kind, where))
        elif kind in ("function_call_output", "custom_tool_call_output"):
            output = item.get("output")
            result = [_part(part) for part in output] if isinstance(output, list) else output
            call = _string(item, "call_id", where)
            messages.append({"role": "tool", "tool_call_id": call, "content": result})
        else:
            raise RequestError(
                f"{where}: items of type {str(kind)[:40]!r} are not supported", param=where
            )
    return messages


def _part(part: object) -> object:
    """A part of an output as chats have it; of those that are no text only the type is told."""
    if isinstance(part, Mapping) and part.get("type") in _TEXTS:
        return {"type": "text", "text": part.get("text")}
    return part


def _add_message(messages: list[dict[str, Any]], item: Mapping[str, Any], where: str) -> None:
    role = _string(item, "role", where)
    text = _text(item.get("content"), where)
    if role == "assistant":
        turn = _assistant(messages, closed=("content", "tool_calls"))
        turn["content"] = text
    else:
        messages.append({"role": role, "content": text})


def _assistant(messages: list[dict[str, Any]], closed: Sequence[str] = ()) -> dict[str, Any]:
    """The assistant's message that an item belongs to: the last one, or a new one if that
    already has what must come after the item."""
    last = messages[-1] if messages else {}
    if last.get("role") != "assistant" or any(last.get(key) for key in closed):
        last = {"role": "assistant", "content": ""}
        messages.append(last)
    return last


def _call(item: Mapping[str, Any], kind: str, where: str) -> dict[str, Any]:
    if kind == "custom_tool_call":
        arguments = json.dumps({"input": _string(item, "input", where)}, ensure_ascii=False)
    else:
        arguments = _string(item, "arguments", where)
    function = {"name": _string(item, "name", where), "arguments": arguments}
    return {"id": _string(item, "call_id", where), "type": "function", "function": function}


def _reasoning(item: Mapping[str, Any], where: str) -> str:
    """Reasoning in plain text, or as we sealed it; what others sealed is unknown to us."""
    if item.get("content"):
        return _text(item["content"], where)
    sealed = item.get("encrypted_content")
    if isinstance(sealed, str) and sealed.startswith(SEAL):
        try:
            return base64.b64decode(sealed.removeprefix(SEAL), validate=True).decode()
        except ValueError as error:
            raise RequestError(
                f"{where}: encrypted_content is damaged", param=f"{where}.encrypted_content"
            ) from error
    return ""


def _text(content: object, where: str) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise RequestError(f"{where} has no content", param=where)
    texts = []
    for part in content:
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind == "refusal":
            texts.append(_string(part, "refusal", where))
        elif kind in _TEXTS:
            texts.append(_string(part, "text", where))
        else:
            raise RequestError(
                f"{where}: parts of type {str(kind)[:40]!r} are not supported", param=where
            )
    return "\n\n".join(texts)


def _string(item: Mapping[str, Any], key: str, where: str) -> str:
    value = item.get(key)
    if not isinstance(value, str):
        raise RequestError(f"{where} has no {key}", param=f"{where}.{key}")
    return value
