"""What servers answer when they are asked for log-probabilities, in the forms that there are.

- OpenAI's text completions, as vLLM, SGLang and dsv4 send them: `logprobs` holds `tokens`,
  `token_logprobs` and `top_logprobs`, a list of objects from a token's text to its
  log-probability. With `echo` the prompt's tokens come first, the first of them without numbers.
- llama.cpp's `/v1/completions`: `logprobs` holds `content`, a list of tokens with `top_logprobs`.
- llama.cpp's own `/completion`: the same list as `completion_probabilities`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from dsv4.encoding.tokenizer import Tokenizer

Row = dict[int, float]
"""Token -> log-probability."""

AS_ID = "token_id:"
"""What a token's text begins with where a server was asked for ids (vLLM)."""


class Vocabulary:
    """Finds ids by what servers say of tokens. Without a tokenizer only ids themselves are known.

    Tokens whose text belongs to several ids (parts of a character) cannot be found by it.
    """

    def __init__(self, tokenizer: Tokenizer | None, size: int) -> None:
        self._tokenizer, self._size = tokenizer, size

    @cached_property
    def _by_bytes(self) -> dict[bytes, int]:
        known = self._tokenizer
        return {} if known is None else {known.token_bytes(i): i for i in range(known.vocab_size)}

    @cached_property
    def _by_text(self) -> dict[str, int]:
        return {
            text.decode("utf-8"): i
            for text, i in self._by_bytes.items()
            if text and "\ufffd" not in text.decode("utf-8", "replace")
        }

    def of_text(self, text: str) -> int | None:
        """The id of a token's text, or of its number."""
        if text.startswith(AS_ID) and text.removeprefix(AS_ID).isdecimal():
            return self._checked(int(text.removeprefix(AS_ID)))
        return self._by_text.get(text)

    def of_entry(self, entry: Mapping[str, Any]) -> int | None:
        """The id of a token that is described by its id, its bytes or its text."""
        number, raw, text = entry.get("id"), entry.get("bytes"), entry.get("token")
        if isinstance(number, int):
            return self._checked(number)
        if isinstance(raw, list) and raw and all(isinstance(x, int) for x in raw):
            found = self._by_bytes.get(bytes(x & 255 for x in raw))
            if found is not None:
                return found
        return self.of_text(text) if isinstance(text, str) else None

    def _checked(self, number: int) -> int | None:
        return number if 0 <= number < self._size else None


def completion_rows(body: Mapping[str, Any], vocabulary: Vocabulary) -> list[Row | None]:
    """Of every token of a text completion what was likely in its place; None where nothing is
    said. Empty if there are no log-probabilities at all."""
    choices = body.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    logprobs = first.get("logprobs") if isinstance(first, dict) else None
    if not isinstance(logprobs, dict):
        return []
    if isinstance(logprobs.get("content"), list):
        return listed_rows(logprobs["content"], vocabulary)
    tokens, own, top = (
        _list(logprobs.get(name)) for name in ("tokens", "token_logprobs", "top_logprobs")
    )
    rows: list[Row | None] = []
    for i, token in enumerate(tokens):
        row: Row = {}
        said = dict(top[i]) if i < len(top) and isinstance(top[i], dict) else {}
        if i < len(own) and isinstance(token, str):
            said.setdefault(token, own[i])
        for text, value in said.items():
            _put(row, vocabulary.of_text(text), value)
        rows.append(row or None)
    return rows


def native_rows(body: Mapping[str, Any], vocabulary: Vocabulary) -> list[Row | None]:
    """The same of llama.cpp's own endpoint."""
    return listed_rows(_list(body.get("completion_probabilities")), vocabulary)


def listed_rows(tokens: Sequence[Any], vocabulary: Vocabulary) -> list[Row | None]:
    """The same of a list of tokens, each with what else was likely. After sampling llama.cpp calls
    it `top_probs`, with probabilities."""
    rows: list[Row | None] = []
    for token in tokens:
        if not isinstance(token, dict):
            rows.append(None)
            continue
        row: Row = {}
        for entry in (*_list(token.get("top_logprobs") or token.get("top_probs")), token):
            if isinstance(entry, dict):
                value = entry.get("logprob")
                if value is None and isinstance(entry.get("prob"), int | float):
                    value = math.log(max(entry["prob"], 1e-300))
                _put(row, vocabulary.of_entry(entry), value)
        rows.append(row or None)
    return rows


def _put(row: Row, token: int | None, value: Any) -> None:
    """Note a log-probability unless it is nonsense; the first of a token counts."""
    if token is not None and isinstance(value, int | float) and not math.isnan(value):
        row.setdefault(token, min(float(value), 0.0))


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
