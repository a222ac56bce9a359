"""Answers that are worked out: GSM8K (Cobbe et al. 2021), BIG-Bench Hard (Suzgun et al. 2022)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial

from dsv4.encoding.events import Reply
from dsv4.errors import DataError
from dsv4.evaluation.benchmark import Benchmark, Settings, averages
from dsv4.evaluation.question import Item, Target
from dsv4.evaluation.standard.question import final, items
from dsv4.evaluation.standard.records import digest, first, read

SUMS = 200
PER_TASK = 8
"""Of each of the 27 tasks of BIG-Bench Hard."""

_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")


def _number(text: str) -> float | None:
    """The last number of a text."""
    found = _NUMBER.findall(text)
    return float(found[-1].replace(",", "")) if found else None


def _same_number(right: float, reply: Reply) -> bool:
    said = _number(final(reply.content))
    return said is not None and abs(said - right) < 1e-6


def _gsm8k(settings: Settings, target: Target) -> Iterator[Item]:
    for record in first(read(settings, "gsm8k_test"), settings.count(SUMS)):
        right = _number(record["answer"].rpartition("####")[2])
        if right is None:
            raise DataError(f"gsm8k_test: an answer without a number: {record['answer']!r}")
        text = f"{record['question']}\n\nWork it out, and end with the line `Answer: NUMBER`."
        yield from items(settings, digest(record), text, partial(_same_number, right))


def _same(right: str, reply: Reply) -> bool:
    return _plain(final(reply.content)) == _plain(right)


def _plain(text: str) -> str:
    """Without case and what may stand around an answer."""
    text = text.strip().lower()
    choice = re.match(r"\(([a-z])\)", text)
    return choice[1] if choice else re.sub(r"\s+", " ", text.strip("'\""))


def _bbh(settings: Settings, target: Target) -> Iterator[Item]:
    # What stands before the line of dashes tells crawlers that these are test data.
    shots = {
        record["task"]: record["prompt"].partition("-----\n")[2].strip()
        for record in read(settings, "bbh_cot_prompts")
    }
    for record in first(read(settings, "bbh"), settings.count(PER_TASK), "task"):
        asked = f"Q: {record['input']}\nA: Let's think step by step."
        text = f"{shots[record['task']]}\n\n{asked}"
        yield from items(settings, digest(record), text, partial(_same, record["target"]))


GSM8K = Benchmark(
    "gsm8k",
    "GSM8K",
    "School sums in words, asked without examples: the last number of the answer is the right one.",
    _gsm8k,
    averages("right", "cut_off", overall=False),
    suite="standard",
)
BBH = Benchmark(
    "bbh",
    "BIG-Bench Hard",
    "27 tasks of reasoning, each with its three worked examples; the answer has to be exact.",
    _bbh,
    averages("right", "cut_off", overall=False),
    suite="standard",
)
