"""How the questions of public benchmarks are put to a target, and how answers are taken apart."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from dsv4.encoding.events import Reply
from dsv4.encoding.messages import Message
from dsv4.engine.sampler import GREEDY, Sampling
from dsv4.evaluation.benchmark import Settings
from dsv4.evaluation.question import Answer, Chat, Item, Measures, Said
from dsv4.tasks.problem import Effort

ROOM: Mapping[Effort, int] = {"off": 2048, "high": 32768, "max": 65536}
"""Tokens an answer may have by effort, if the settings do not say; reasoning counts."""

SHOWN: Mapping[Effort, str] = {"off": "no thinking", "high": "high", "max": "max"}
"""Groups of the results."""

_ANSWER = re.compile(r"answer(?:\s+is)?\s*:?\s*(.+)", re.IGNORECASE)
_BOXED = re.compile(r"\\boxed\{([^{}]*)\}")


def items(
    settings: Settings,
    name: str,
    text: str,
    right: Callable[[Reply], bool],
    tools: Sequence[Mapping[str, Any]] = (),
) -> Iterator[Item]:
    """A question once with every effort that is wanted. An answer that was cut off, or departs
    from the encoding, is wrong."""

    def grade(answer: Answer) -> Measures:
        assert isinstance(answer, Said)
        whole = answer.finished and answer.reply is not None
        good = whole and answer.reply is not None and right(answer.reply)
        return {"right": float(good), "cut_off": float(not answer.finished)}

    drawn = settings.temperature > 0
    sampling = Sampling(settings.temperature, seed=0) if drawn else GREEDY
    for effort in settings.efforts:
        chat = Chat(
            (Message("user", text),),
            settings.answer_tokens or ROOM[effort],
            effort,
            tuple(tools),
            sampling,
        )
        yield Item(f"{name}/{effort}", SHOWN[effort], chat, grade, text)


def final(text: str) -> str:
    """What a reply gives as its answer: what stands in its last box or behind its last "answer",
    else its last line. Marks of emphasis around it are gone."""
    boxed = _BOXED.findall(text)
    if boxed:
        return str(boxed[-1]).strip()
    found = _ANSWER.findall(text)
    lines = text.strip().splitlines()
    said = str(found[-1]) if found else lines[-1] if lines else ""
    return said.lstrip("*`$ ").rstrip("*`$. ")
