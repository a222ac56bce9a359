"""Contest problems in the format of LiveCodeBench (Jain et al. 2024), from the user's own folder.

Their statements belong to the contests, so none come with the package. A program reads standard
input, or a method of `Solution` is called; both run in `dsv4.evaluation.sandbox`.
"""

from __future__ import annotations

import base64
import io
import json
import pickle
import zlib
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from dsv4.encoding.events import Reply
from dsv4.errors import DataError
from dsv4.evaluation.benchmark import Benchmark, Settings, averages
from dsv4.evaluation.question import Item, Target
from dsv4.evaluation.sandbox import run as sandbox
from dsv4.evaluation.standard.programs import code
from dsv4.evaluation.standard.question import items
from dsv4.evaluation.standard.records import Record, first, read

PROBLEMS = 100

_CALL = """
import json as _json
_name, _given = _json.loads({call!r})
_owner = Solution() if "Solution" in globals() else None
_found = getattr(_owner, _name) if _owner else globals()[_name]
print("\\n" + _json.dumps(_found(*_given)))
"""
_IMPORTS = """
from bisect import *; from collections import *; from functools import *; from heapq import *
from itertools import *; from math import *; from typing import *; import collections, math, random
"""
"""What the sites of such contests import before an answer is run."""


class _Plain(pickle.Unpickler):
    """Pickles of plain values alone: one that wants a class or a function is refused."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"{module}.{name} is no plain value")


def tests(record: Record) -> list[dict[str, str]]:
    """The public and the hidden tests: `input`, `output`, and `testtype` stdin or functional.

    Hidden ones may be packed as the data set packs them. Raises DataError for anything else.
    """
    found: list[dict[str, str]] = []
    for key in ("public_test_cases", "private_test_cases"):
        value = record.get(key) or "[]"
        try:
            try:
                cases = json.loads(value)
            except ValueError:
                packed = zlib.decompress(base64.b64decode(value))
                cases = json.loads(_Plain(io.BytesIO(packed)).load())
            found += [{name: case[name] for name in ("input", "output", "testtype")}
                      for case in cases]  # fmt: skip
        except (ValueError, TypeError, KeyError, zlib.error, pickle.UnpicklingError) as error:
            where = record.get("question_id", "a problem")
            raise DataError(f"livecodebench: {key} of {where} are no tests: {error}") from error
    return found


def _items(settings: Settings, target: Target) -> Iterator[Item]:
    sandbox.check()
    for record in first(read(settings, "livecodebench"), settings.count(PROBLEMS)):
        start = record.get("starter_code") or ""
        how = (
            f"Begin with this code:\n\n```python\n{start}\n```"
            if start
            else "Read from standard input and write to standard output."
        )
        text = (
            f"Solve this problem in Python.\n\n{record['question_content']}\n\n{how}\n\n"
            "Reply with the whole program in one code block."
        )
        meta = json.loads(record.get("metadata") or "{}")
        right = partial(_solves, tests(record), meta.get("func_name", ""))
        yield from items(settings, str(record["question_id"]), text, right)


def _solves(cases: Sequence[dict[str, str]], name: str, reply: Reply) -> bool:
    """Whether every test passes; the first that fails ends it."""
    program = _IMPORTS + code(reply.content)
    return bool(cases) and all(_holds(program, case, name) for case in cases)


def _holds(program: str, case: dict[str, str], name: str) -> bool:
    if case["testtype"] == "functional":
        given = [json.loads(line) for line in case["input"].splitlines() if line.strip()]
        call = _CALL.format(call=json.dumps([name, given]))
        outcome = sandbox.run(f"{program}\n{call}")
        said = outcome.output.strip().rpartition("\n")[2]
        return outcome.end == "done" and json.loads(said) == json.loads(case["output"])
    outcome = sandbox.run(program, stdin=case["input"])
    return outcome.end in ("done", "exit") and _same(outcome.output, case["output"])


def _same(said: str, right: str) -> bool:
    """Line for line and word for word; numbers by their value."""
    lines = [[line.split() for line in text.strip().splitlines()] for text in (said, right)]
    if [len(words) for words in lines[0]] != [len(words) for words in lines[1]]:
        return False
    return all(
        one == other or _number(one) == _number(other) is not None
        for left, wanted in zip(*lines, strict=True)
        for one, other in zip(left, wanted, strict=True)
    )


def _number(word: str) -> float | None:
    try:
        return float(word)
    except ValueError:
        return None


CONTEST = Benchmark(
    "livecodebench",
    "LiveCodeBench",
    "Contest problems from the folder given as --data; one try, which has to pass all tests.",
    _items,
    averages("right", "cut_off", overall=False),
    needs="data",
    file="livecodebench",
    suite="standard",
)
