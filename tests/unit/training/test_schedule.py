"""Learning rate, MTP weight and batch ramp."""

import math

import pytest

from dsv4.errors import UsageError
from dsv4.training.schedule import Schedule

PLAN = Schedule(steps=100, lr=1.0, warmup=10, decay=0.2, floor=0.1, accumulate=4, ramp=0.4)


def test_warm_up_flat_cosine():
    rates = [PLAN.rate(step) for step in range(100)]
    assert rates[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
    assert set(rates[10:80]) == {1.0}
    assert rates[80:] == sorted(rates[80:], reverse=True)
    assert rates[89] == pytest.approx(0.55) and rates[99] == pytest.approx(0.1)


def test_mtp_weight_drops_where_the_decay_starts():
    assert [PLAN.mtp_weight(s) for s in (0, 79, 80, 99)] == [0.3, 0.3, 0.1, 0.1]


def test_batch_grows_to_its_full_size():
    sizes = [PLAN.micro_batches(step) for step in range(100)]
    assert sizes[0] == 1 and sizes[39] == 4 and set(sizes[40:]) == {4}
    assert sizes == sorted(sizes)


def test_no_decay_stays_at_the_peak():
    assert Schedule(steps=30, lr=2.0, warmup=0, decay=0.0).rate(29) == 2.0


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": 0},
        {"steps": 1, "decay": 2.0},
        {"steps": 1, "accumulate": 0},
        {"steps": 1, "lr": -1e-3},
        {"steps": 1, "lr": math.nan},
        {"steps": 1, "lr": math.inf},
        {"steps": 1, "indexer_lr": -1.0},
    ],
)
def test_impossible_plans_are_refused(wrong):
    with pytest.raises(UsageError):
        Schedule(**wrong)
