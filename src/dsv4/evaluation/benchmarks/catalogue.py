"""All benchmarks by name, in the order in which they run and are shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from dsv4.errors import UsageError
from dsv4.evaluation.benchmark import Benchmark
from dsv4.evaluation.benchmarks.arithmetic import ARITHMETIC, INFILL
from dsv4.evaluation.benchmarks.blimp import BLIMP
from dsv4.evaluation.benchmarks.coffee import COFFEE
from dsv4.evaluation.benchmarks.retrieval import NEEDLE, RECALL
from dsv4.evaluation.benchmarks.samples import NEWCOMER, STORY
from dsv4.evaluation.benchmarks.tasks import OTHERS
from dsv4.evaluation.benchmarks.text import BIGRAM, FIVEGRAM, TEXT
from dsv4.evaluation.benchmarks.tools import TOOLS

BENCHMARKS: Mapping[str, Benchmark] = MappingProxyType(
    {
        benchmark.name: benchmark
        for benchmark in (
            TEXT,
            BIGRAM,
            FIVEGRAM,
            BLIMP,
            ARITHMETIC,
            TOOLS,
            COFFEE,
            INFILL,
            OTHERS,
            NEEDLE,
            RECALL,
            NEWCOMER,
            STORY,
        )
    }
)


def chosen(names: Sequence[str]) -> list[Benchmark]:
    """The benchmarks of these names, all if there are none. Raises UsageError."""
    for name in names:
        if name not in BENCHMARKS:
            raise UsageError(f"there is no benchmark {name!r}", "one of " + ", ".join(BENCHMARKS))
    return [benchmark for name, benchmark in BENCHMARKS.items() if not names or name in names]
