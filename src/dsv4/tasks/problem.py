"""A problem: what the model is asked, a good reply, and how any reply is judged."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any, Literal

from dsv4.encoding.chat import render, render_reply
from dsv4.encoding.control import EOS
from dsv4.encoding.events import Reply
from dsv4.encoding.fim import render_fim
from dsv4.encoding.messages import Message
from dsv4.encoding.prompt import Prompt, PromptBuilder
from dsv4.errors import UsageError
from dsv4.tasks.checks import Check, Grade

Effort = Literal["off", "high", "max"]
"""How much the model thinks before it answers; "off": not at all."""
EFFORTS: tuple[Effort, ...] = ("off", "high", "max")

Split = Literal["train", "heldout"]
"""Problems of the two splits differ in what makes them hard: numbers, names, tools, wording."""

HELD_OUT_SHARE = 0.1


@dataclass(frozen=True)
class Gap:
    """Text with a hole, for fill-in-the-middle problems."""

    prefix: str
    suffix: str


@dataclass(frozen=True)
class Ask:
    """What a problem is wanted for; None leaves the choice to the task.

    effort: how much the model is to think. level: 1 (easiest) to 4. words: length of the context
    of a problem that has one. texts: running text for that context instead of made-up sentences.
    entries: WordNet records for the tasks about words.
    """

    effort: Effort | None = None
    level: int | None = None
    words: int | None = None
    texts: tuple[str, ...] = ()
    entries: tuple[Mapping[str, Any], ...] = ()

    def __post_init__(self) -> None:
        if self.effort not in (None, *EFFORTS):
            raise UsageError(f"unknown effort {self.effort!r}", "one of " + ", ".join(EFFORTS))
        if self.level is not None and not 1 <= self.level <= 4:
            raise UsageError(f"there is no level {self.level}", "1 (easiest) to 4")
        if self.words is not None and self.words < 0:
            raise UsageError(f"a context can not have {self.words} words")


@dataclass(frozen=True)
class Problem:
    """One problem.

    task: name of its task. messages: the conversation to answer; empty if `gap` is to be filled.
    reply: a reference reply, which `check` gives the score 1. tools: function objects.
    """

    task: str
    messages: tuple[Message, ...]
    reply: Reply
    check: Check
    effort: Effort = "off"
    tools: tuple[Mapping[str, Any], ...] = ()
    gap: Gap | None = None

    @property
    def thinking(self) -> bool:
        """Whether the reply begins with reasoning."""
        return self.effort != "off"

    def prompt(self) -> Prompt:
        """What the model is shown, in the encoding of the "launch" profile."""
        if self.gap is not None:
            return render_fim(self.gap.prefix, self.gap.suffix)
        effort = self.effort if self.thinking else None
        return render(self.messages, thinking=self.thinking, effort=effort, tools=self.tools)

    def answer(self) -> Prompt:
        """The reference reply as the model would write it, EOS included."""
        if self.gap is not None:
            builder = PromptBuilder()
            builder.content(self.reply.content)
            builder.control(EOS)
            return builder.build()
        return render_reply(self.said(), thinking=self.thinking)

    def said(self) -> Message:
        """The reference reply as a message that continues the conversation."""
        reply = self.reply
        return Message("assistant", reply.content, reply.reasoning, reply.tool_calls)

    def grade(self, reply: Reply) -> Grade:
        """How good a reply is."""
        return self.check.grade(reply)


@dataclass(frozen=True)
class Task:
    """A kind of problem. `make` draws one; equal draws give equal problems."""

    name: str
    summary: str
    make: Callable[[Random, Split, Ask], Problem]
    efforts: tuple[Effort, ...] = field(default=EFFORTS)


def pick_effort(rng: Random, ask: Ask, off: float = 0.5, high: float = 0.35) -> Effort:
    """The effort asked for, or one drawn: `off` and `high` are shares, the rest is max."""
    if ask.effort is not None:
        return ask.effort
    draw = rng.random()
    return "off" if draw < off else "high" if draw < off + high else "max"


def is_held_out(key: str, share: float = HELD_OUT_SHARE) -> bool:
    """Whether what `key` names belongs to the held-out split, by hash: the same everywhere."""
    digest = hashlib.blake2b(key.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") < share * 2**64


def belongs(key: str, split: Split) -> bool:
    """Whether what `key` names may be used in a split."""
    return is_held_out(key) == (split == "heldout")


def dialogue(
    name: str,
    question: str,
    content: str,
    check: Check,
    *,
    effort: Effort = "off",
    reasoning: str = "",
    system: str = "",
) -> Problem:
    """A problem of one question and one answer. `reasoning` is left out with effort "off"."""
    messages = (Message("system", system),) if system else ()
    reply = Reply(None if effort == "off" else reasoning, content)
    return Problem(name, (*messages, Message("user", question)), reply, check, effort)
