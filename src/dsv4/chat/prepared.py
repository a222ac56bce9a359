"""A request as ids: what the engine gets, and what is needed to read its answer."""

from __future__ import annotations

from dataclasses import dataclass

from dsv4.chat.request import Request


@dataclass(frozen=True, slots=True)
class Prepared:
    """`opens_thinking`: the answer begins inside the reasoning."""

    request: Request
    ids: tuple[int, ...]
    opens_thinking: bool
