"""Several things hidden in a text; and published numbers beside measured ones."""

from __future__ import annotations

import math
from random import Random
from typing import Any

import pytest

from dsv4.encoding.events import Reply
from dsv4.evaluation.benchmark import Result, Row, Settings
from dsv4.evaluation.benchmarks import hidden
from dsv4.evaluation.benchmarks.catalogue import BENCHMARKS
from dsv4.evaluation.endpoint import Endpoint
from dsv4.evaluation.published import compared, find, published
from dsv4.evaluation.report import Report, markdown
from dsv4.tasks.checks import Mentions


@pytest.mark.parametrize("make", [hidden.keys, hidden.variables])
def test_what_is_hidden_can_be_found(make: Any) -> None:
    for seed in range(20):
        problem = make(Random(seed), 300, ())
        text, check = problem.messages[-1].content, problem.check
        assert isinstance(check, Mentions)
        assert problem.grade(problem.reply).score == 1
        wanted = [group[0] for group in check.wanted]
        part = problem.grade(Reply(None, " ".join(wanted[:-1]))).score
        assert part == pytest.approx((len(wanted) - 1) / len(wanted))
        # Who names everything that stands there finds nothing.
        assert problem.grade(Reply(None, " ".join([*wanted, check.unwanted[0]]))).score == 0
        assert all(word in text for word in wanted)
        assert make(Random(seed), 300, ()).messages == problem.messages
        assert 250 < len(text.split()) < 420


def test_keys_are_asked_by_their_names() -> None:
    problem = hidden.keys(Random(1), 200, ())
    body, question = problem.messages[-1].content.rsplit("\n\n", 1)
    facts = dict(
        (line.split()[4], line.split()[6]) for line in body.split(".") if "special number" in line
    )
    asked = [word.strip(",?.") for word in question.split() if word.strip(",?.") in facts]
    assert len(facts) == 8 and [facts[name] for name in asked] == problem.reply.content.split(", ")
    assert problem.grade(Reply(None, ", ".join(f"{int(facts[n]):,}" for n in asked))).score == 1


def test_variables_are_passed_on_in_order() -> None:
    problem = hidden.variables(Random(1), 200, ())
    text = problem.messages[-1].content
    value = text.split("have the value ")[1].split(",")[0]
    steps = [s.split(".")[0] for s in text.replace("= VAR ", "= ").split("VAR ")[1:]]
    reached = {value}
    for step in steps:
        name, _, source = step.partition(" = ")
        if source in reached:
            reached.add(name)
    assert reached - {value} == set(problem.reply.content.split(", "))


@pytest.mark.parametrize("name", ["multikey", "variables"])
def test_lengths_are_those_that_are_asked_for(name: str) -> None:
    target = Endpoint("http://x", "m", context=20_000)
    settings = Settings(lengths=(1000, 3000, 10_000, 100_000), limit=2)
    made = list(BENCHMARKS[name].items(settings, target))
    assert [item.group for item in made] == ["1000"] * 2 + ["3000"] * 2 + ["10000"] * 2
    for item in made:
        assert 0.85 * int(item.group) < target.length(item.question) <= int(item.group)
    quick = BENCHMARKS[name].items(Settings(quick=True, limit=1), target)
    assert [item.group for item in quick] == ["128", "512", "2048"]


def test_published_numbers_are_whole() -> None:
    source, sets = published()
    assert "report" in source and len({one.name for one in sets}) == len(sets) > 40
    own = [one.own for one in sets if one.own]
    assert len(set(own)) == len(own) and set(own) <= BENCHMARKS.keys()
    for one in sets:
        numbers = [*one.base, *one.flash, *one.pro]
        assert len(numbers) == 9 and not all(map(math.isnan, numbers))
        assert all(math.isnan(n) or 0 < n <= 100 or "rating" in one.name for n in numbers)
    assert find("inspect/inspect_evals/gpqa_diamond").pro == (72.9, 89.1, 90.1)  # type: ignore[union-attr]
    assert find("arithmetic") is None


def test_what_was_published_stands_beside_what_was_measured() -> None:
    def result(name: str, group: str) -> Result:
        return Result(name, "", 4, 1.0, (Row(group, "right", 4, 0.5, 0.15, 0.85),))

    contest, mmlu = result("livecodebench", "max"), result("mmlu", "no thinking")
    lines = compared({"livecodebench": contest, "arithmetic": result("a", "b"), "mmlu": mmlu})
    assert lines[1:] == [
        ["LiveCodeBench", "max", "4", "50.0 (15.0 to 85.0)", "91.6", "93.5", "", ""],
        ["MMLU", "no thinking", "4", "50.0 (15.0 to 85.0)", "", "", "88.7", "90.1"],
    ]
    assert not compared({"arithmetic": result("arithmetic", "off")})
    about = {"model": "m", "fingerprint": "f", "version": "1", "command": "dsv4 eval m"}
    shown = markdown(Report(about, {"mmlu": result("mmlu", "no thinking")}))
    assert "*published:* Flash" in shown and "nobody measured them here" in shown
    assert "dsv4 eval m --only mmlu" in shown
    assert "ublished" not in markdown(Report(about, {"infill": result("infill", "infill")}))
