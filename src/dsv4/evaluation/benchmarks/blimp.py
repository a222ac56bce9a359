"""BLiMP: of two sentences that differ in little, which one is grammatical (Warstadt et al. 2020)?

Right is a pair whose good sentence is strictly more likely: ties are wrong.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from dsv4.data.corpora import read_records
from dsv4.data.documents import Text
from dsv4.errors import DataError
from dsv4.evaluation import intervals
from dsv4.evaluation.benchmark import Benchmark, Row, Settings
from dsv4.evaluation.question import Answer, Item, Likelihood, Measures, Scored, Target
from dsv4.evaluation.records import Record

PAIRS = 50
"""Of the 1000 pairs of each of the 67 paradigms."""


def items(settings: Settings, target: Target) -> Iterator[Item]:
    """The first pairs of every paradigm, in the order of the file; `group` is field/paradigm."""
    assert settings.data is not None
    paths = sorted(settings.data.glob("blimp.jsonl*"))
    if not paths:
        raise DataError(f"no blimp.jsonl or blimp.jsonl.xz in {settings.data}")
    taken: Counter[str] = Counter()
    for record in read_records(paths[0]):
        try:
            paradigm, field = record["UID"], record["field"]
            good, bad = record["sentence_good"], record["sentence_bad"]
        except KeyError as error:
            raise DataError(f"{paths[0]}: a record without {error}") from error
        if taken[paradigm] < settings.count(PAIRS):
            yield Item(
                f"{paradigm}/{taken[paradigm]}",
                f"{field}/{paradigm}",
                Likelihood((Text(good), Text(bad)), end=False),
                _grade,
            )
            taken[paradigm] += 1


def _grade(answer: Answer) -> Measures:
    assert isinstance(answer, Scored)
    good, bad = answer.logprobs
    return {"right": float(good > bad)}


def rows(records: Sequence[Record]) -> list[Row]:
    """All pairs, the fields, then the paradigms."""
    fields: dict[str, list[float]] = {"all": [record.measures["right"] for record in records]}
    paradigms: dict[str, list[float]] = {}
    for record in records:
        field, _, paradigm = record.group.partition("/")
        fields.setdefault(field, []).append(record.measures["right"])
        paradigms.setdefault(paradigm, []).append(record.measures["right"])
    return [
        Row.of(name, "right", len(values), intervals.mean(values), detail=groups is paradigms)
        for groups in (fields, paradigms)
        for name, values in groups.items()
    ]


BLIMP = Benchmark(
    "blimp",
    "BLiMP",
    "Minimal pairs: the grammatical sentence is strictly more likely. Chance is 50 %.",
    items,
    rows,
    needs="data",
    likelihoods=True,
)
