"""Conversation messages: frozen, checked, read from the OpenAI shape."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dsv4.encoding.control import TASKS
from dsv4.errors import EncodingError

ROLES = ("system", "user", "assistant", "tool", "developer", "latest_reminder")


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call the model made. `arguments` is JSON text, an object, or None for no arguments."""

    name: str
    arguments: str | Mapping[str, Any] | None = None
    id: str | None = None


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a conversation.

    `reasoning` None means the client did not send any (rendered like "").
    `tools` are function objects (name, description, parameters) and, like `schema` (the JSON
    schema of the answer), belong to a system or developer message.
    `task` asks for a quick task; `extracted_url` is the URL the task read_url looks at.
    `wo_eos` leaves an assistant message open. `prefix` does so too, for the last message: the
    model continues it, in chat mode unless the message brings its own reasoning.
    """

    role: str
    content: str = ""
    reasoning: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    tools: tuple[Mapping[str, Any], ...] = ()
    schema: Mapping[str, Any] | None = None
    task: str | None = None
    extracted_url: str | None = None
    wo_eos: bool = False
    prefix: bool = False


def read_messages(messages: Iterable[Message | Mapping[str, Any]]) -> tuple[Message, ...]:
    """Check a conversation and bring it into one shape.

    Unknown keys are ignored, as clients send many. Raises EncodingError naming the message.
    """
    if isinstance(messages, (str, bytes, Mapping)):
        raise EncodingError("messages must be a list of messages")
    read = tuple(
        message if isinstance(message, Message) else _read(message, f"message {i}")
        for i, message in enumerate(messages)
    )
    if not read:
        raise EncodingError("there are no messages", hint="send at least one user message")
    for i, message in enumerate(read):
        _check(message, f"message {i}", is_last=i == len(read) - 1)
    return read


def read_tools(tools: object, where: str = "tools") -> tuple[Mapping[str, Any], ...]:
    """Function objects of OpenAI `tools` (or of bare function objects), unchanged."""
    if tools is None:
        return ()
    functions = []
    for i, tool in enumerate(_sequence(tools, where)):
        function = tool.get("function", tool) if isinstance(tool, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise EncodingError(
                f"{where}[{i}] is no function with a name",
                hint='expected {"type": "function", "function": {"name": ..., "parameters": ...}}',
            )
        functions.append(function)
    return tuple(functions)


def fold_for_template(
    messages: Iterable[Message | Mapping[str, Any]],
) -> tuple[Message, ...]:
    """Bring an API conversation into the order the template was trained on.

    The template has no place for three things clients send, and fails silently on each: system
    text after the start would stand between turns without a marker, or leave no assistant
    header; `developer` turns are deleted from old thinking; a reminder after its user turn
    separates it from the header. So: later system text joins the user turn where it stands,
    `developer` is system text, and a reminder moves before its user turn. Raises EncodingError
    for tools that stand on later system text.
    """
    folded: list[Message] = []
    for message in read_messages(messages):
        role = "system" if message.role == "developer" else message.role
        if role == "system" and any(m.role != "system" for m in folded):
            if message.tools or message.schema is not None:
                raise EncodingError(
                    f"a later {message.role} message declares tools or response_format",
                    hint="give them with the request, or on the first system message",
                )
            role = "user"
        at = len(folded)
        if role == "latest_reminder":
            while at and folded[at - 1].role in ("user", "tool"):
                at -= 1
        folded.insert(at, _with_role(message, role))
    return tuple(folded)


def _with_role(message: Message, role: str) -> Message:
    if message.role == role:
        return message
    if role == "user":
        return Message("user", message.content)
    return Message(role, message.content, tools=message.tools, schema=message.schema)


def _read(message: object, where: str) -> Message:
    if not isinstance(message, Mapping):
        raise EncodingError(f"{where} is not an object", hint='expected {"role": ..., ...}')
    role = message.get("role")
    calls = _read_calls(message.get("tool_calls"), where)
    reasoning = message.get("reasoning_content")
    if reasoning is None:
        reasoning = message.get("reasoning")
    if "content" not in message and not (role == "assistant" and (calls or reasoning is not None)):
        raise EncodingError(f"{where} ({role!r}) has no content", hint='send "content": "..."')
    content = message.get("content")
    if content is None and role not in ("assistant", "tool"):
        raise EncodingError(f"{where} ({role!r}) has null content", hint="send a string")
    return Message(
        role=_text(role, f"{where}: role"),
        content=_read_content(content, role, where),
        reasoning=None if reasoning is None else _text(reasoning, f"{where}: reasoning"),
        tool_calls=calls,
        tool_call_id=_optional_text(message, "tool_call_id", where),
        tools=read_tools(message.get("tools"), f"{where}: tools"),
        schema=message.get("response_format"),
        task=_optional_text(message, "task", where),
        extracted_url=_optional_text(message, "extracted_url", where),
        wo_eos=_flag(message, "wo_eos", where),
        prefix=_flag(message, "prefix", where),
    )


def _check(message: Message, where: str, is_last: bool) -> None:
    role = message.role
    if role not in ROLES:
        raise EncodingError(
            f"{where} has unknown role {role!r}", hint="roles are " + ", ".join(ROLES)
        )
    if role == "developer" and not message.content:
        raise EncodingError(f"{where}: a developer message needs content")
    if message.task is not None and message.task not in TASKS:
        raise EncodingError(
            f"{where} has unknown task {message.task!r}", hint="tasks are " + ", ".join(TASKS)
        )
    if message.extracted_url is not None and (role != "user" or message.task != "read_url"):
        raise EncodingError(f"{where}: extracted_url needs a user message with task read_url")
    if message.schema is not None and not isinstance(message.schema, Mapping):
        raise EncodingError(f"{where}: response_format must be a JSON schema object")
    if role != "assistant" and (message.tool_calls or message.wo_eos or message.prefix):
        raise EncodingError(
            f"{where} ({role!r}) has tool_calls, prefix or wo_eos",
            hint="only assistant messages can",
        )
    if role not in ("system", "developer") and (message.tools or message.schema is not None):
        raise EncodingError(
            f"{where} ({role!r}) has tools or response_format",
            hint="give them with the request, or on a system message",
        )
    if message.prefix and not is_last:
        raise EncodingError(f"{where} has prefix but is not the last message")


def _read_content(content: object, role: object, where: str) -> str:
    """Text of a content string or array; only a tool's array may hold other parts."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    texts = []
    for part in _sequence(content, f"{where}: content"):
        if not isinstance(part, Mapping):
            raise EncodingError(f"{where}: a content part is not an object")
        kind = part.get("type")
        if kind == "text":
            texts.append(_text(part.get("text"), f"{where}: text of a content part"))
        elif role == "tool":
            texts.append(f"[Unsupported {kind}]")
        else:
            raise EncodingError(
                f"{where}: content parts of type {kind!r} are not supported",
                hint="V4 is a text model; send parts of type text",
            )
    return "\n\n".join(texts)


def _read_calls(calls: object, where: str) -> tuple[ToolCall, ...]:
    if calls is None:
        return ()
    read = []
    for i, call in enumerate(_sequence(calls, f"{where}: tool_calls")):
        function = call.get("function") if isinstance(call, Mapping) else None
        if not isinstance(function, Mapping):
            raise EncodingError(
                f"{where}: tool_calls[{i}] has no function",
                hint='expected {"id": ..., "function": {"name": ..., "arguments": ...}}',
            )
        arguments = function.get("arguments")
        if arguments is not None and not isinstance(arguments, (str, Mapping)):
            raise EncodingError(f"{where}: arguments of tool_calls[{i}] are no string or object")
        if isinstance(arguments, Mapping) and not all(isinstance(key, str) for key in arguments):
            raise EncodingError(f"{where}: arguments of tool_calls[{i}] have a key that is no text")
        name = _text(function.get("name"), f"{where}: name of tool_calls[{i}]")
        read.append(ToolCall(name, arguments, _optional_text(call, "id", where)))
    return tuple(read)


def _sequence(value: object, where: str) -> Sequence[Any]:
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        return value
    raise EncodingError(f"{where} is not a list")


def _text(value: object, where: str) -> str:
    if isinstance(value, str):
        return value
    raise EncodingError(f"{where} must be a string, not {type(value).__name__}")


def _optional_text(message: Mapping[str, Any], key: str, where: str) -> str | None:
    value = message.get(key)
    return None if value is None else _text(value, f"{where}: {key}")


def _flag(message: Mapping[str, Any], key: str, where: str) -> bool:
    value = message.get(key)
    if value is None or isinstance(value, bool):
        return bool(value)
    raise EncodingError(f"{where}: {key} must be true or false, not {type(value).__name__}")
