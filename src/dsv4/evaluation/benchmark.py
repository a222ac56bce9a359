"""A benchmark: items for a target, and the numbers that its records come to."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from dsv4.evaluation import intervals
from dsv4.evaluation.question import Item, Question, Said, Scored, Target
from dsv4.evaluation.records import Record, Records, stored
from dsv4.evaluation.spending import Estimate, Spending
from dsv4.pricing.price import Tokens
from dsv4.tasks.problem import Effort

QUICK = 5
"""Items per group of a quick run."""

Suite = Literal["own", "standard"]

Progress = Callable[[int, int], None]
"""Called with (items done, items in all)."""


@dataclass(frozen=True)
class Settings:
    """What an evaluation is given.

    data: folder with held-out texts and BLiMP. corpora: folder with what was trained on, for the
    baselines and for the held-out part of dialogues. limit: items per group, None for the usual
    number. quick: few items, short contexts.

    Of public benchmarks: efforts to ask with, the temperature to draw at (0: greedy), and how many
    tokens an answer may have (None: what the effort needs). lengths: tokens of the contexts in
    which something is to be found, none for the usual ones.
    """

    data: Path | None = None
    corpora: Path | None = None
    limit: int | None = None
    quick: bool = False
    efforts: tuple[Effort, ...] = ("off",)
    temperature: float = 0.0
    answer_tokens: int | None = None
    lengths: tuple[int, ...] = ()

    def count(self, usual: int, most: int | None = None) -> int:
        """Items of a group that has `usual` ones, and for a reason of cost never over `most`."""
        wanted = usual if self.limit is None else self.limit
        return min(wanted, most or wanted, QUICK if self.quick else wanted)

    @property
    def options(self) -> str:
        """These settings on a command line, with names in place of the folders."""
        given = {
            "--data DATA": self.data is not None,
            "--corpora CORPORA": self.corpora is not None,
            f"--limit {self.limit}": self.limit is not None,
            "--quick": self.quick,
            f"--effort {','.join(self.efforts)}": self.efforts != ("off",),
            f"--temperature {self.temperature:g}": self.temperature != 0,
            f"--answer-tokens {self.answer_tokens}": self.answer_tokens is not None,
            f"--lengths {','.join(map(str, self.lengths))}": bool(self.lengths),
        }
        return " ".join(option for option, is_given in given.items() if is_given)


@dataclass(frozen=True)
class Row:
    """One number of a result: the mean of a measure over a group, and its 95 % interval.

    detail: a part of another group, which a reader may skip.
    """

    group: str
    measure: str
    count: int
    mean: float
    low: float
    high: float
    detail: bool = False

    @classmethod
    def of(
        cls,
        group: str,
        measure: str,
        count: int,
        estimate: intervals.Estimate,
        *,
        detail: bool = False,
    ) -> Row:
        return cls(group, measure, count, *estimate, detail)


def averages(*measures: str, overall: bool = True) -> Callable[[Sequence[Record]], list[Row]]:
    """Rows with the means of these measures, for all records together and for every group; what
    an answer has no number for counts as 0."""

    def rows(records: Sequence[Record]) -> list[Row]:
        groups: dict[str, list[Record]] = {"all": list(records)} if overall else {}
        for record in records:
            groups.setdefault(record.group, []).append(record)
        if overall and len(groups) == 2:
            del groups["all"]
        return [
            Row.of(name, measure, len(group), intervals.mean(values))
            for name, group in groups.items()
            for measure in measures
            for values in [[record.measures.get(measure, 0.0) for record in group]]
        ]

    return rows


@dataclass(frozen=True)
class Benchmark:
    """Questions with their grades.

    needs: the folder of `Settings` without which there are no items. rows: what the records come
    to. answered_by: who answers in place of the target (a baseline). about: one or two sentences
    for a reader of the numbers. likelihoods: it asks how likely documents are. samples: the
    answers themselves are the result. suite: what it belongs to: the project's own, or those that
    other models publish numbers of. file: what the data folder has to have, NAME.jsonl or
    NAME.jsonl.xz.
    """

    name: str
    title: str
    about: str
    items: Callable[[Settings, Target], Iterable[Item]]
    rows: Callable[[Sequence[Record]], list[Row]]
    needs: Literal["data", "corpora", "both"] | None = None
    answered_by: Callable[[Settings, Target], Target] | None = None
    likelihoods: bool = False
    samples: bool = False
    suite: Suite = "own"
    file: str = ""

    def missing(self, settings: Settings, likelihoods: bool) -> str | None:
        """What would have to be given to run it, None if all is there. `likelihoods`: whether the
        target tells them."""
        if self.likelihoods and not likelihoods:
            return "a model folder"
        wanted = {None: (), "both": ("data", "corpora")}.get(self.needs, (self.needs,))
        absent = [f"--{name}" for name in wanted if name and getattr(settings, name) is None]
        if self.file and settings.data is not None and not absent:
            found = any(settings.data.glob(f"{self.file}.jsonl*"))
            absent = [] if found else [f"{self.file}.jsonl in {settings.data}"]
        return " and ".join(absent) or None


@dataclass(frozen=True)
class Result:
    """What a benchmark found, with which settings (`Settings.options`). `seconds` is the time of
    all its answers, over all runs; so are the tokens of the prompt that a service charged for, of
    the answers, and `cost` in USD, if there was a price."""

    name: str
    options: str
    items: int
    seconds: float
    rows: tuple[Row, ...]
    samples: tuple[dict[str, Any], ...] = field(default=())
    prompt_tokens: int = 0
    answer_tokens: int = 0
    cost: str | None = None


def estimate(
    benchmark: Benchmark, target: Target, settings: Settings, folder: Path, spending: Spending
) -> Estimate:
    """What `run` would ask of a target that writes answers. Raises as `run`; nothing is sent."""
    items = list(benchmark.items(settings, target))
    known = stored(folder / f"{benchmark.name}.jsonl", target.fingerprint)
    left = [item for item in items if not _answered(known, item)]
    spending.add(known.values())
    tokens = sum((spending.expected(item.question, target) for item in left), Tokens())
    cost = None if spending.price is None else spending.most(tokens)
    return Estimate(len(items), len(items) - len(left), tokens, cost)


def run(
    benchmark: Benchmark,
    target: Target,
    settings: Settings,
    folder: Path,
    progress: Progress = lambda done, total: None,
    spending: Spending | None = None,
) -> Result:
    """Ask what is not yet answered in `folder`, and sum up.

    `spending` says what may be asked; what it does not know of yet are this run's answers. When it
    stops, what is under way is waited for and kept.

    Raises UsageError if the target cannot answer or the folder belongs to another one, DataError
    for files that are missing, RequestError or KeyboardInterrupt if questions are left.
    """
    spending = spending or Spending()
    items = list(benchmark.items(settings, target))
    assert len({item.id for item in items}) == len(items), f"ids of {benchmark.name}"
    who = target if benchmark.answered_by is None else benchmark.answered_by(settings, target)
    with Records(folder / f"{benchmark.name}.jsonl", who.fingerprint) as records:
        todo = [item for item in items if not _answered(records.known, item)]
        done, began = len(items) - len(todo), time.perf_counter()
        progress(done, len(items))
        for number, answer in who.answer(_allowed(todo, who, spending)):
            now = time.perf_counter()
            record = _record(todo[number], answer, now - began)
            records.add(record)
            spending.add([record])
            began, done = now, done + 1
            progress(done, len(items))
    if done < len(items):
        raise spending.unfinished(benchmark.name, len(items) - done, len(items))
    found = [records.known[item.id] for item in items]
    return Result(
        benchmark.name,
        settings.options,
        len(found),
        round(sum(record.seconds for record in found), 2),
        tuple(benchmark.rows(found)) if found else (),
        tuple(
            {"id": r.id, "group": r.group, "prompt": r.prompt, "text": r.text, "ended": r.finished}
            for r in found
        )
        if benchmark.samples
        else (),
        sum(record.hit + record.miss for record in found),
        sum(record.tokens for record in found),
        None if spending.price is None else str(spending.cost(found)),
    )


def _answered(known: Mapping[str, Record], item: Item) -> bool:
    return item.id in known and known[item.id].digest == item.digest


def _allowed(items: Iterable[Item], target: Target, spending: Spending) -> Iterator[Question]:
    """Questions, each when it is about to be asked, until one may not be."""
    for item in items:
        if not spending.ask(item.id, item.question, target):
            return
        yield item.question


def _record(item: Item, answer: Said | Scored, seconds: float) -> Record:
    common = (item.id, item.group, item.digest, dict(item.grade(answer)), round(seconds, 4))
    if isinstance(answer, Scored):
        return Record(*common, item.prompt, "", sum(answer.tokens), True, answer.logprobs)
    return Record(
        *common,
        item.prompt,
        answer.text,
        answer.tokens,
        answer.finished,
        hit=answer.hit,
        miss=answer.miss,
        when=round(time.time(), 3),
    )
