"""All benchmarks by name, in the order in which they run and are shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from dsv4.errors import UsageError
from dsv4.evaluation.benchmark import Benchmark, Suite
from dsv4.evaluation.benchmarks.arithmetic import ARITHMETIC, INFILL
from dsv4.evaluation.benchmarks.blimp import BLIMP
from dsv4.evaluation.benchmarks.coffee import COFFEE
from dsv4.evaluation.benchmarks.retrieval import MULTIKEY, NEEDLE, RECALL, VARIABLES
from dsv4.evaluation.benchmarks.samples import NEWCOMER, STORY
from dsv4.evaluation.benchmarks.tasks import OTHERS
from dsv4.evaluation.benchmarks.text import BIGRAM, FIVEGRAM, TEXT
from dsv4.evaluation.benchmarks.tools import TOOLS
from dsv4.evaluation.standard.calls import BFCL
from dsv4.evaluation.standard.choice import HELLASWAG, MMLU
from dsv4.evaluation.standard.contest import CONTEST
from dsv4.evaluation.standard.programs import HUMANEVAL, MBPP
from dsv4.evaluation.standard.reasoning import BBH, GSM8K

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
            MMLU,
            HELLASWAG,
            GSM8K,
            BBH,
            HUMANEVAL,
            MBPP,
            CONTEST,
            BFCL,
            MULTIKEY,
            VARIABLES,
        )
    }
)


SUITES: tuple[Suite, ...] = ("own", "standard")


def chosen(names: Sequence[str]) -> list[Benchmark]:
    """The benchmarks of these names, or of suites that are among them; the project's own if there
    are none. Raises UsageError."""
    for name in names:
        if name not in BENCHMARKS and name not in SUITES:
            known = ", ".join((*SUITES, *BENCHMARKS))
            raise UsageError(f"there is no benchmark {name!r}", f"one of {known}")
    wanted = names or ("own",)
    return [b for b in BENCHMARKS.values() if b.name in wanted or b.suite in wanted]
