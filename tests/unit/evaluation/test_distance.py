"""Distances of logits on numbers that can be followed by hand, and what makes a check fail."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from dsv4.evaluation import distance
from dsv4.evaluation.distance import Consistency, Distance, Pair


def test_a_distance_by_hand() -> None:
    reference = torch.tensor([[3.0, 0.0], [0.0, 4.0]])
    other = torch.tensor([[3.0, 0.0], [5.0, 4.0]])
    found = distance.measure(other, reference)
    assert found.relative == pytest.approx(1.0)  # 5 over sqrt(9 + 16)
    assert found.largest == 5.0
    assert found.agreement == 0.5
    p, q = 1 / (1 + math.exp(4)), 1 / (1 + math.exp(-1))
    second = p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))
    assert found.divergence == pytest.approx(second / 2)
    assert distance.measure(reference, reference) == Distance(0.0, 0.0, 1.0, 0.0)


def pairs(fast: float, official: float) -> list[Pair]:
    return [
        Pair(of, "exact", "prefill", Distance(value, 1.0, 1.0, 0.0))
        for of, value in (("fast", fast), ("official", official))
    ]


def test_fast_may_be_twice_as_far_as_official() -> None:
    assert distance._failures(pairs(0.02, 0.01), []) == ()
    (failure,) = distance._failures(pairs(0.021, 0.01), [])
    assert failure.startswith("prefill: fast is 0.021 from exact, more than 0.02")
    assert len(distance._failures(pairs(math.nan, 0.01), [])) == 1


def test_native_kernels_give_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [Consistency("prefill = chunks", False, 1e-6), Consistency("prefill = decode", True, 0)]
    monkeypatch.setattr(distance, "kernels", object())
    assert distance._failures([], rows) == ("prefill = chunks does not hold to the bit",)
    monkeypatch.setattr(distance, "kernels", None)
    assert distance._failures([], rows) == ()


def test_a_check_of_a_model(tiny_folder: Path) -> None:
    report = distance.check(tiny_folder, list(range(5, 55)), decode=10, threads=1)
    assert (report.tokens, report.decoded) == (50, 10)
    assert [(pair.of, pair.to, pair.how) for pair in report.pairs] == [
        (of, to, how)
        for of, to in (("fast", "exact"), ("official", "exact"), ("fast", "official"))
        for how in ("prefill", "decode")
    ]
    assert all(0 < pair.distance.relative < 1 for pair in report.pairs)
    assert report.failures == ()
