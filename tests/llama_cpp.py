"""The fake server with the ways of llama.cpp's, as its own (0.5.0) answered."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from tests.upstream import Json, Upstream


class LlamaCpp(Upstream):
    """`written`: the text of a prompt, without its beginning of sequence."""

    def __init__(self, *args: Any, written: Callable[[Json], str], **options: Any) -> None:
        super().__init__(*args, **options)
        self.written = written
        self.asked: list[Json] = []

    def answer(self, body: Json) -> Json:
        """It thinks unless `enable_thinking` is false. Its template reads `thinking` too, the
        parser of its answers does not, and keeps the end of thinking that the prompt ended with."""
        self.asked.append(body)
        switches = body.get("chat_template_kwargs") or {}
        parsed = switches.get("enable_thinking", True)
        thinks = switches.get("thinking", parsed)
        made = super().answer({**body, "thinking": {"type": "enabled" if thinks else "disabled"}})
        if parsed and not thinks:
            made["content"] = "</think>" + made["content"]
        return made

    def salt(self, body: Json) -> str:
        """Caches are not parted, but need not be read."""
        return "" if body.get("cache_prompt", True) else f"request {self.requests}"

    def page(self, path: str) -> str | None:
        if path != "/metrics":
            return None
        return (
            "# HELP llamacpp:requests_processing Number of requests processing.\n"
            "# TYPE llamacpp:requests_processing gauge\n"
            f"llamacpp:requests_processing {self.active}\n"
        )

    def beside(self, path: str, data: bytes) -> Json | None:
        if path == "/tokenize":  # of a content; there is none
            return {"tokens": []}
        return {"prompt": self.written(json.loads(data))} if path == "/apply-template" else None
