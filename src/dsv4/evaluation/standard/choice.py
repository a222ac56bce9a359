"""Questions with several choices: MMLU (Hendrycks et al. 2021), HellaSwag (Zellers et al. 2019)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import partial

from dsv4.encoding.events import Reply
from dsv4.evaluation.benchmark import Benchmark, Settings, averages
from dsv4.evaluation.question import Item, Target
from dsv4.evaluation.standard.question import final, items
from dsv4.evaluation.standard.records import digest, first, read

PER_SUBJECT = 4
"""Of each of the 57 subjects of MMLU."""
ENDINGS = 200

LETTERS = "ABCDEFGHIJ"
_LETTER = re.compile(r"\(?([A-J])\)?(?![A-Za-z])")


def _asked(question: str, choices: Sequence[str]) -> str:
    listed = "\n".join(f"({LETTERS[i]}) {choice}" for i, choice in enumerate(choices))
    return f"{question}\n\n{listed}\n\nEnd with the line `Answer: LETTER`."


def _right(letter: str, reply: Reply) -> bool:
    found = _LETTER.match(final(reply.content))
    return found is not None and found[1] == letter


def _mmlu(settings: Settings, target: Target) -> Iterator[Item]:
    records = [r for r in read(settings, "mmlu_dev_test") if r["split"] == "test"]
    for record in first(records, settings.count(PER_SUBJECT), "subject"):
        subject = record["subject"].replace("_", " ")
        question = f"A question about {subject}.\n\n{record['question']}"
        text = _asked(question, record["choices"])
        right = partial(_right, LETTERS[record["answer"]])
        yield from items(settings, digest(record), text, right)


def _hellaswag(settings: Settings, target: Target) -> Iterator[Item]:
    for record in first(read(settings, "hellaswag_val"), settings.count(ENDINGS)):
        text = _asked(f"How does this go on?\n\n{record['ctx']}", record["endings"])
        yield from items(settings, digest(record), text, partial(_right, LETTERS[record["label"]]))


MMLU = Benchmark(
    "mmlu",
    "MMLU",
    "Questions from 57 subjects with four choices, asked without examples. Chance is 25 %.",
    _mmlu,
    averages("right", "cut_off", overall=False),
    suite="standard",
)
HELLASWAG = Benchmark(
    "hellaswag",
    "HellaSwag",
    "Which of four endings follows, asked without examples. Chance is 25 %.",
    _hellaswag,
    averages("right", "cut_off", overall=False),
    suite="standard",
)
