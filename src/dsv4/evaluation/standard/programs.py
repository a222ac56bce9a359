"""Programs that are run: HumanEval (Chen et al. 2021), MBPP (Austin et al. 2021).

What a model wrote runs in `dsv4.evaluation.sandbox`, with the standard library alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial

from dsv4.encoding.events import Reply
from dsv4.evaluation.benchmark import Benchmark, Settings, averages
from dsv4.evaluation.question import Item, Target
from dsv4.evaluation.sandbox import run as sandbox
from dsv4.evaluation.standard.question import items
from dsv4.evaluation.standard.records import first, read

PROBLEMS = 164
MBPP_TEST = range(11, 511)
"""Its `task_id`s; the others are examples and training data."""

_BLOCK = re.compile(r"```[ \t]*(?:python3?|py)?[ \t]*\n(.*?)(?:```|\Z)", re.DOTALL | re.IGNORECASE)


def code(text: str) -> str:
    """The program of a reply: its last code block, all of it if it has none."""
    found = _BLOCK.findall(text)
    return str(found[-1]) if found else text


def _humaneval(settings: Settings, target: Target) -> Iterator[Item]:
    sandbox.check()
    for record in first(read(settings, "humaneval"), settings.count(PROBLEMS)):
        prompt, name = record["prompt"], record["entry_point"]
        tests = f"{record['test']}\ncheck({name})\n"
        text = (
            "Complete this Python function. Reply with the whole function, and what it needs, in "
            f"one code block.\n\n```python\n{prompt}```"
        )
        right = partial(_completes, prompt, name, tests)
        yield from items(settings, record["task_id"], text, right)


def _completes(prompt: str, name: str, tests: str, reply: Reply) -> bool:
    """Whether the tests pass behind the prompt, whose imports and helpers count, and the reply:
    the function anew, or what is missing of it."""
    written = code(reply.content)
    anew = re.search(rf"^(?:async )?def {re.escape(name)}\b", written, re.MULTILINE)
    program = f"{prompt}\n\n{written}" if anew else prompt + written
    return sandbox.run(f"{program}\n\n{tests}").end == "done"


def _mbpp(settings: Settings, target: Target) -> Iterator[Item]:
    sandbox.check()
    records = [r for r in read(settings, "mbpp") if r["task_id"] in MBPP_TEST]
    for record in first(records, settings.count(PROBLEMS)):
        tests = "\n".join(record["test_list"])
        text = (
            f"{record['text']} Your code has to pass these tests:\n\n```python\n{tests}\n```\n\n"
            "Reply with the code in one code block, without the tests."
        )
        right = partial(_passes, f"{record['test_setup_code']}\n{tests}\n")
        yield from items(settings, str(record["task_id"]), text, right)


def _passes(tests: str, reply: Reply) -> bool:
    return sandbox.run(f"{code(reply.content)}\n\n{tests}").end == "done"


HUMANEVAL = Benchmark(
    "humaneval",
    "HumanEval",
    "Functions by their description, asked without examples; one try, whose tests have to pass.",
    _humaneval,
    averages("right", "cut_off", overall=False),
    suite="standard",
)
MBPP = Benchmark(
    "mbpp",
    "MBPP",
    "Short programs by a sentence and three tests, which have to pass; one try.",
    _mbpp,
    averages("right", "cut_off", overall=False),
    suite="standard",
)
