"""Records of corpus files, as documents.

* `{"text"}`: a text.
* `{"prompt", "response"}`, with `input` appended to the prompt: one exchange.
* The same, the response ending in a line `#### NUMBER` (GSM8K): an exchange with effort "high",
  whose reasoning is the lines before, without their `<<...>>` marks.
* `{"messages": [{"role", "content"}]}`: a conversation.
* The same with `{"role": "assistant", "tool_call": {"name", "arguments"}}` and
  `{"role": "tool", "content"}` (Taskmaster-4): a conversation with the tools of `coffee`.
* `{"words", "pos", "definition", "examples"}` (WordNet): an exchange about a word.
* `{"name", "facts"}` (World Factbook): a text and exchanges about a country, see `countries`.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from dsv4.data.coffee import COFFEE_TOOLS
from dsv4.data.countries import country_documents
from dsv4.data.documents import Conversation, Document, Text, exchange
from dsv4.encoding.messages import Message, ToolCall
from dsv4.errors import DataError

_POS = {"n": "noun", "v": "verb", "a": "adjective", "s": "adjective", "r": "adverb"}
_SOLVED = re.compile(r"(.*)\n#### *(-?\$?\d[\d,.]*)", re.DOTALL)
_CALCULATION = re.compile(r"<<[^>]*>>")
_ABOUT_WORDS = (
    'What does "{word}" mean?', "What does {word} mean?", "What is the meaning of {word}?",
    'Define "{word}".', "Explain the word {word}.", 'What is meant by "{word}"?',
    "Can you tell me what {word} means?", 'Give me a definition of "{word}".',
)  # fmt: skip


def to_documents(record: Mapping[str, Any], path: Path) -> tuple[Document, ...]:
    """The documents of a record, mostly one; none if there is nothing to learn from.

    Raises DataError for a record of an unknown shape.
    """
    try:
        if "prompt" in record:
            return (_exchange(record),)
        if "messages" in record:
            conversation = _conversation(record["messages"])
            return () if conversation is None else (conversation,)
        if "text" in record:
            text = record["text"].strip()
            return (Text(text),) if text else ()
        if "facts" in record:
            return tuple(country_documents(record))
        return (_definition(record),)
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path}: a record has keys {', '.join(sorted(record))}",
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


def _conversation(said: list[Mapping[str, Any]]) -> Document | None:
    """Messages up to the last of an assistant; None if there is none, or no user before it."""
    messages: list[Message] = []
    calls = 0
    for item in said:
        role, call = item["role"], item.get("tool_call")
        if role == "tool":
            content = item["content"]
            text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
            messages.append(Message("tool", text, tool_call_id=f"call_{calls - 1:02}"))
        elif call is not None:
            made = ToolCall(call["name"], call["arguments"], f"call_{calls:02}")
            calls += 1
            if messages and messages[-1].role == "assistant":  # a word, then the call
                last = messages[-1]
                messages[-1] = replace(last, tool_calls=(*last.tool_calls, made))
            else:
                messages.append(Message("assistant", "", tool_calls=(made,)))
        elif role in ("system", "user", "assistant"):
            text = item["content"].strip()
            if role == "assistant" and messages and messages[-1].role == "assistant":
                return None  # two answers in a row: not a form that models meet
            messages.append(Message(role, text))
        else:
            raise KeyError(role)
    while messages and messages[-1].role != "assistant":
        messages.pop()
    if not messages or messages[0].role == "assistant":
        return None
    return Conversation(tuple(messages), COFFEE_TOOLS if calls else ())


def _definition(record: Mapping[str, Any]) -> Document:
    """A dictionary entry as a question about a word and its answer."""
    word = record["words"][0]
    answer = f"{word} ({_POS[record['pos']]}): {record['definition']}."
    if record["examples"]:
        answer += f' Example: "{record["examples"][0]}"'
    ask = hashlib.blake2b(f"{word}/{answer}".encode(), digest_size=1).digest()[0]
    return exchange(_ABOUT_WORDS[ask % len(_ABOUT_WORDS)].format(word=word), answer)
