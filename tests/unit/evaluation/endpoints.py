"""Endpoints for tests: what a server answers, with everything that clients read."""

from __future__ import annotations

from typing import Any

from tests.unit.batch.batches import Reply, good

PROMPT, OUTPUT = 10, 5
"""Tokens that every answer is charged for."""


def said(text: str, output: int = OUTPUT, **message: Any) -> Reply:
    """A whole chat completion."""
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": text, **message},
        "finish_reason": "stop",
    }
    usage = {
        "prompt_tokens": PROMPT,
        "completion_tokens": output,
        "total_tokens": PROMPT + output,
    }
    return good(text, id="chatcmpl-1", created=1, model="m", choices=[choice], usage=usage)
