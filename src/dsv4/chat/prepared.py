"""A request as ids: what the engine gets, and what is needed to read its answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from dsv4.chat.history import Turn
from dsv4.chat.request import Completion, Request
from dsv4.chat.rules import Rules


@dataclass(frozen=True, slots=True)
class Prepared:
    """`opens_thinking`: the answer begins inside the reasoning. `rules`: what it must look like
    (None: anything goes). `digest` names its prompt for `remember`, which is told the answer
    once it is over; None: answers of this kind are not remembered."""

    request: Request | Completion
    ids: tuple[int, ...]
    opens_thinking: bool
    rules: Rules | None = None
    digest: bytes = b""
    remember: Callable[[Turn], None] | None = None
