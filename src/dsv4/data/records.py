"""Records of corpus files, as documents.

* `{"text"}`: a text.
* `{"prompt", "response"}`, with `input` appended to the prompt: one exchange.
* The same, the response ending in a line `#### NUMBER` (GSM8K): an exchange with effort "high",
  whose reasoning is the lines before, without their `<<...>>` marks.
* `{"messages", "tools"}`, as a request to the chat API has them, answers included: a conversation
  with the assistant's `reasoning_content` and `tool_calls`. Its effort is "high" if it shows
  reasoning.
* The same with `{"role": "assistant", "tool_call": {"name", "arguments"}}` and results without an
  id (Taskmaster-4): calls are numbered; without `tools` they are those of `coffee`.
* `{"words", "pos", "definition", "examples"}` (WordNet): an exchange about a word.
* `{"name", "facts"}` (World Factbook): a text and exchanges about a country, see `countries`.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from dsv4.data.coffee import COFFEE_TOOLS
from dsv4.data.countries import country_documents
from dsv4.data.documents import Conversation, Document, Text, exchange
from dsv4.encoding.dsml import UNPARSED_KEY, history_arguments
from dsv4.encoding.messages import Message, fold_for_template, read_messages, read_tools
from dsv4.errors import DataError, EncodingError
from dsv4.tasks.problem import Effort

_POS = {"n": "noun", "v": "verb", "a": "adjective", "s": "adjective", "r": "adverb"}
_SOLVED = re.compile(r"(.*)\n#### *(-?\$?\d[\d,.]*)", re.DOTALL)
_CALCULATION = re.compile(r"<<[^>]*>>")
_ABOUT_WORDS = (
    'What does "{word}" mean?', "What does {word} mean?", "What is the meaning of {word}?",
    'Define "{word}".', "Explain the word {word}.", 'What is meant by "{word}"?',
    "Can you tell me what {word} means?", 'Give me a definition of "{word}".',
)  # fmt: skip
_KEYS = {
    "assistant": ("role", "content", "reasoning_content", "reasoning", "tool_calls"),
    "tool": ("role", "content", "tool_call_id", "name"),
}
_KEYS_OF_OTHERS = ("role", "content")


def to_documents(record: Mapping[str, Any], where: str | Path) -> tuple[Document, ...]:
    """The documents of a record, mostly one; none if there is nothing to learn from.

    Raises DataError, which begins with `where`, for a record of an unknown shape and for a message
    that can not be learned as it stands.
    """
    try:
        if "prompt" in record:
            return (_exchange(record),)
        if "messages" in record:
            conversation = _conversation(record)
            return () if conversation is None else (conversation,)
        if "text" in record:
            text = record["text"].strip()
            return (Text(text),) if text else ()
        if "facts" in record:
            return tuple(country_documents(record))
        return (_definition(record),)
    except EncodingError as error:
        raise DataError(f"{where}: {error}", error.hint) from error
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{where}: a record has keys {', '.join(sorted(record))}",
            "expected prompt+response, messages, text, words+pos+definition, or name+facts",
        ) from error


def _exchange(record: Mapping[str, Any]) -> Document:
    extra = record.get("input") or ""
    prompt = (f"{record['prompt']}\n{extra}" if extra else record["prompt"]).strip()
    response = record["response"].strip()
    solved = _SOLVED.fullmatch(response)
    if solved is None:
        return exchange(prompt, response)
    reasoning = _CALCULATION.sub("", solved.group(1)).strip()
    answer = Message("assistant", solved.group(2).strip(), reasoning)
    return Conversation((Message("user", prompt), answer), effort="high")


def _conversation(record: Mapping[str, Any]) -> Document | None:
    """Messages up to the last of an assistant; None if there is none, or no user before it."""
    said, tools = record["messages"], read_tools(record.get("tools"))
    if any(item.get("tool_call") is not None for item in said):
        said, tools = _with_numbered_calls(said), tools or COFFEE_TOOLS
    messages = _joined(fold_for_template(_read(said))) if said else []
    while messages and messages[-1].role != "assistant":
        messages.pop()
    if not messages or messages[0].role == "assistant":
        return None
    if any(one.role == other.role == "assistant" for one, other in pairwise(messages)):
        return None  # two answers in a row: not a form that models meet
    shown = messages if tools else messages[-1:]  # the encoding drops the reasoning of the others
    effort: Effort = "high" if any(message.reasoning for message in shown) else "off"
    return Conversation(tuple(messages), tools, effort)


def _joined(messages: Sequence[Message]) -> list[Message]:
    """Messages with a word and the calls after it, where they are two, as one of the assistant."""
    joined: list[Message] = []
    for message in messages:
        last = joined[-1] if joined else None
        calls_alone = message.tool_calls and not message.content and not message.reasoning
        if last is not None and last.role == message.role == "assistant" and calls_alone:
            joined[-1] = replace(last, tool_calls=(*last.tool_calls, *message.tool_calls))
        else:
            joined.append(message)
    return joined


def _read(said: Sequence[Mapping[str, Any]]) -> list[Message]:
    """Messages of the API's form, without the white space around what is said.

    Served prompts leave out what they do not know; here it is refused, as the model would learn
    something else than the record says. Raises EncodingError naming the message.
    """
    messages: list[Message] = []
    calls: set[str | None] = set()
    for i, (item, message) in enumerate(zip(said, read_messages(said), strict=True)):
        where = f"message {i} ({message.role!r})"
        keys = _KEYS.get(message.role, _KEYS_OF_OTHERS)
        unknown = [key for key in item if key not in keys and item[key] not in (None, "", [])]
        if unknown:
            raise EncodingError(f"{where} has {', '.join(unknown)}", f"known: {', '.join(keys)}")
        if message.role == "tool":
            if message.tool_call_id not in calls:
                raise EncodingError(
                    f"{where} answers {message.tool_call_id!r}, no call of the assistant before it",
                    "tool_call_id is the id of one of its tool_calls",
                )
            messages.append(message)
            continue
        if message.role == "assistant":
            more = messages and messages[-1].role == "assistant"
            calls = {*(calls if more else ()), *(call.id for call in message.tool_calls)}
            _check_answer(item, message, where)
        reasoning = message.reasoning and message.reasoning.strip()
        messages.append(replace(message, content=message.content.strip(), reasoning=reasoning))
    return messages


def _check_answer(item: Mapping[str, Any], message: Message, where: str) -> None:
    if item.get("content") is None and not message.tool_calls:
        raise EncodingError(f"{where} has neither content nor tool_calls")
    for call in message.tool_calls:
        if history_arguments(call.arguments) == {UNPARSED_KEY: call.arguments}:
            raise EncodingError(
                f"{where}: arguments of {call.name} are no JSON object: {call.arguments!r:.60}"
            )


def _with_numbered_calls(said: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Messages of Taskmaster's form in that of the API."""
    messages: list[dict[str, Any]] = []
    calls = 0
    for item in said:
        message = {key: value for key, value in item.items() if value is not None}
        call = message.pop("tool_call", None)
        if call is not None:
            made = {"id": f"call_{calls:02}", "function": call}
            calls += 1
            message["tool_calls"] = [made]
        elif item["role"] == "tool":
            content = item["content"]
            text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
            message |= {"content": text, "tool_call_id": f"call_{calls - 1:02}"}
        messages.append(message)
    return messages


def _definition(record: Mapping[str, Any]) -> Document:
    """A dictionary entry as a question about a word and its answer."""
    word = record["words"][0]
    answer = f"{word} ({_POS[record['pos']]}): {record['definition']}."
    if record["examples"]:
        answer += f' Example: "{record["examples"][0]}"'
    ask = hashlib.blake2b(f"{word}/{answer}".encode(), digest_size=1).digest()[0]
    return exchange(_ABOUT_WORDS[ask % len(_ABOUT_WORDS)].format(word=word), answer)
