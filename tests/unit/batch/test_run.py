"""A run: every request has one result, within the budget, however it is interrupted."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from tests.unit.batch.batches import Said, answer, line, write
from tests.unit.batch.batches import read as lines_of

from dsv4.batch import results as batch_results
from dsv4.batch.charges import Tariff
from dsv4.batch.plan import Plan
from dsv4.batch.report import Far, estimate, summary
from dsv4.batch.request import read
from dsv4.batch.results import Results
from dsv4.batch.run import STRANDED, run
from dsv4.errors import DataError, RequestError, UsageError
from dsv4.evaluation.client import NO_ANSWER, Response
from dsv4.pricing.price import Price, PricedModel, Prices, Rate

RATE = Rate(Decimal(0), Decimal(1), Decimal(2))  # USD per 1M tokens
PRICES = Prices({"scripted": PricedModel("scripted", "us", (Price(RATE),))})


def fine(text: str) -> Response:
    return Response(200, answer(text), f"r-{text}")


def plan_of(path: Path, lines: list[dict[str, Any]]) -> Plan:
    return Plan(read(write(path, lines)), len, Tariff(PRICES, None))


def go(
    tmp_path: Path, plan: Plan, say: Callable[[str], Response], **options: Any
) -> tuple[Said, str | None]:
    target = Said(say)
    again = options.pop("retry_failed", False)
    with Results(tmp_path / "out.jsonl", plan.requests, retry_failed=again) as results:
        return target, run(plan, results, target, **options)


def test_results_are_in_openais_format(tmp_path: Path) -> None:
    def say(text: str) -> Response:
        if text == "b":
            return Response(400, {"error": {"message": "no", "code": "bad"}}, "r-b")
        if text == "c":
            raise RequestError("gone", code="invalid_response")
        return fine(text)

    plan = plan_of(tmp_path / "in", [line(name, name) for name in "abc"])
    target, why = go(tmp_path, plan, say)
    assert why is None and sorted(target.asked) == ["a", "b", "c"]
    found = {one["custom_id"]: one for one in lines_of(tmp_path / "out.jsonl")}
    ids = {request.custom_id: request.id for request in plan.requests}
    assert all(list(one) == ["id", "custom_id", "response", "error"] for one in found.values())
    assert {name: one["id"] for name, one in found.items()} == ids
    assert found["a"]["response"] == {
        "status_code": 200,
        "request_id": "r-a",
        "body": answer("a"),
    }
    assert found["b"]["response"]["status_code"] == 400 and found["b"]["error"] is None
    assert found["c"]["response"] is None
    assert found["c"]["error"] == {"code": "invalid_response", "message": "gone"}


def test_several_at_once_and_no_more(tmp_path: Path) -> None:
    together = threading.Barrier(4)

    def say(text: str) -> Response:
        together.wait(10)
        return fine(text)

    plan = plan_of(tmp_path / "in", [line(str(i), str(i)) for i in range(12)])
    target, _ = go(tmp_path, plan, say, together=4)
    assert target.most == 4 and len(target.asked) == 12


def test_what_is_done_is_not_asked_again(tmp_path: Path) -> None:
    lines = [line(name, name) for name in "abcd"]
    plan = plan_of(tmp_path / "in", lines)

    def say(text: str) -> Response:
        if text == "a":
            return Response(400, {"error": {"code": "bad"}})
        if text == "b":
            raise RequestError("gone", code=NO_ANSWER)
        return fine(text)

    go(tmp_path, plan, say)
    out = tmp_path / "out.jsonl"
    with out.open("a", encoding="utf-8") as file:
        file.write('{"id": "half of a li')
    target, _ = go(tmp_path, plan, fine)
    assert target.asked == ["b"]  # it had no answer
    assert go(tmp_path, plan, fine)[0].asked == []
    assert go(tmp_path, plan, fine, retry_failed=True)[0].asked == ["a"]
    assert sorted(one["custom_id"] for one in lines_of(out)) == list("abcd")
    assert all(one["response"]["status_code"] == 200 for one in lines_of(out))
    plan = plan_of(tmp_path / "in", [*lines, line("e", "e")])
    assert go(tmp_path, plan, fine)[0].asked == ["e"]


def test_half_a_line_is_dropped(tmp_path: Path) -> None:
    plan = plan_of(tmp_path / "in", [line("a", "a"), line("b", "b")])
    out = tmp_path / "out.jsonl"
    target, _ = go(tmp_path, plan, fine)
    whole = out.read_bytes().splitlines(keepends=True)
    for size in (0, 1, len(whole[1]) - 1):
        out.write_bytes(whole[0] + whole[1][:size])
        target, _ = go(tmp_path, plan, fine)
        assert target.asked == [json.loads(whole[1])["response"]["request_id"].removeprefix("r-")]
        assert out.read_bytes().splitlines(keepends=True) == whole


def test_a_dry_look_changes_nothing(tmp_path: Path) -> None:
    plan = plan_of(tmp_path / "in", [line("a"), line("b")])
    out = tmp_path / "out.jsonl"
    assert batch_results.read(out, plan.requests) == ({}, []) and not out.exists()
    go(tmp_path, plan, lambda text: Response(400, {"error": "no"}))
    with out.open("a", encoding="utf-8") as file:
        file.write("half")
    before = out.read_bytes()
    assert batch_results.read(out, plan.requests, retry_failed=True).known == {}
    known = batch_results.read(out, plan.requests).known
    assert {one.failure for one in known.values()} == {"400 no"}
    assert out.read_bytes() == before


def test_results_of_something_else(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    go(tmp_path, plan_of(tmp_path / "in", [line("a"), line("b")]), fine)
    before = out.read_bytes()
    for lines, why in (
        ([line("a")], "no request has the custom_id 'b'"),
        ([line("a"), line("b", "changed")], "the request 'b' is another one now"),
    ):
        with pytest.raises(UsageError, match=why):
            go(tmp_path, plan_of(tmp_path / "in", lines), fine)
        assert out.read_bytes() == before
    plan = plan_of(tmp_path / "in", [line("a")])
    for text in ("{}\n", "words\n", "[]\n", '{"custom_id": "a", "id": 1, "response": {}}\n'):
        out.write_text(text, encoding="utf-8")
        with pytest.raises(DataError, match="line 1 is no result of a batch"):
            go(tmp_path, plan, fine)
        assert out.read_text(encoding="utf-8") == text


def test_one_process_at_a_time(tmp_path: Path) -> None:
    plan = plan_of(tmp_path / "in", [line("a")])
    with (
        Results(tmp_path / "out.jsonl", plan.requests) as results,
        pytest.raises(UsageError, match="another process writes"),
    ):
        assert results.known == {}
        Results(tmp_path / "out.jsonl", plan.requests)
    go(tmp_path, plan, lambda text: Response(400, {"error": "no"}))
    with (  # the file that takes the place of another is held as well
        Results(tmp_path / "out.jsonl", plan.requests, retry_failed=True),
        pytest.raises(UsageError, match="another process writes"),
    ):
        Results(tmp_path / "out.jsonl", plan.requests)


@pytest.mark.parametrize("together", [1, 3, 8])
def test_the_budget_is_kept(together: int, tmp_path: Path) -> None:
    # A request is "hi", 2 tokens for len and 4 around it, and at most 100 for the answer: 206
    # millionths of a dollar.
    plan = plan_of(tmp_path / "in", [line(str(i), "hi", max_tokens=100) for i in range(20)])
    most = Decimal("0.0009")
    used: list[Decimal] = []

    def say(text: str) -> Response:
        time.sleep(0.01)
        return Response(200, answer(text, prompt=2, output=20))

    def spent() -> Decimal:
        return plan.spent(batch_results.read(tmp_path / "out.jsonl", plan.requests).known)

    _, why = go(
        tmp_path, plan, say, together=together, budget=most, progress=lambda n: used.append(spent())
    )
    assert why == "the limit of cost is reached"
    # 42 each: after 16 of them 672 are spent and another fits, after 17 it does not.
    assert len(used) == 17
    assert max(used) <= most
    assert go(tmp_path, plan, say, together=together, budget=most)[0].asked == []
    assert go(tmp_path, plan, say, together=together, budget=2 * most)[1] is None


def test_an_answer_that_counts_nothing_may_have_cost_all(tmp_path: Path) -> None:
    plan = plan_of(tmp_path / "in", [line("a", "hi", max_tokens=100)])
    go(tmp_path, plan, lambda text: Response(200, {"choices": []}))
    known = batch_results.read(tmp_path / "out.jsonl", plan.requests).known
    assert plan.spent(known) == Decimal("0.000206")


def test_a_budget_needs_bounds(tmp_path: Path) -> None:
    plan_of(tmp_path / "in", [line("a", max_tokens=1)]).check_bounded()
    with pytest.raises(UsageError, match="line 1 sets no max_tokens"):
        plan_of(tmp_path / "in", [line("a")]).check_bounded()
    with pytest.raises(UsageError, match="line 1: there is no price"):
        plan_of(tmp_path / "in", [line("a", model="other", max_tokens=1)]).check_bounded()


def test_an_interrupted_run_keeps_what_was_under_way(tmp_path: Path) -> None:
    plan = plan_of(tmp_path / "in", [line(str(i), str(i)) for i in range(10)])
    asked = threading.Event()
    allowed = threading.Event()

    def say(text: str) -> Response:
        asked.set()
        allowed.wait(10)
        if text == "1":
            return Response(503, {"error": "later"})
        return fine(text)

    def stopped() -> bool:
        if asked.is_set():
            threading.Timer(0.2, allowed.set).start()
        return asked.is_set()

    target, why = go(tmp_path, plan, say, together=3, stopped=stopped)
    assert why == "interrupted" and target.settled
    # What might be another answer a moment later is left for the next run.
    done = {one["custom_id"] for one in lines_of(tmp_path / "out.jsonl")}
    assert done == set(target.asked) - {"1"}
    rest, why = go(tmp_path, plan, fine)
    assert why is None and set(rest.asked) == {str(i) for i in range(10)} - done


def test_a_key_that_nobody_takes_ends_the_run(tmp_path: Path) -> None:
    plan = plan_of(tmp_path / "in", [line(str(i), str(i)) for i in range(50)])

    def say(text: str) -> Response:
        return fine(text) if text == "0" else Response(401, {"error": {"message": "who?"}})

    with pytest.raises(RequestError, match="every request is refused: 401 who") as error:
        go(tmp_path, plan, say, together=2)
    assert error.value.status == 401
    assert [one["custom_id"] for one in lines_of(tmp_path / "out.jsonl")] == ["0"]


def test_a_server_that_is_gone_ends_the_run(tmp_path: Path) -> None:
    plan = plan_of(tmp_path / "in", [line(str(i), str(i)) for i in range(100)])

    def say(text: str) -> Response:
        raise RequestError("nobody is there", code=NO_ANSWER)

    with pytest.raises(RequestError, match="nobody is there"):
        go(tmp_path, plan, say, together=2)
    assert len(lines_of(tmp_path / "out.jsonl")) == STRANDED
    assert len(go(tmp_path, plan, fine)[0].asked) == 100


def test_our_own_mistakes_are_no_results(tmp_path: Path) -> None:
    plan = plan_of(tmp_path / "in", [line("a")])

    def say(text: str) -> Response:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        go(tmp_path, plan, say)
    assert (tmp_path / "out.jsonl").read_bytes() == b""


def test_what_it_will_take_and_what_it_took(tmp_path: Path) -> None:
    lines = [
        line("a", "four", max_tokens=100),
        line("b", "seven77", max_completion_tokens=10, n=2),
        line("c", "x", model="other"),
        line("d", "", model="other", tools=[{"type": "function", "function": {"name": "fun"}}]),
        line("e") | {"url": "/v1/completions", "body": {"model": "other", "prompt": [5, 6, 7]}},
    ]
    plan = plan_of(tmp_path / "in", lines)
    told = estimate(plan, {}, counted=True)
    assert told == {
        "requests": 5,
        "done": 0,
        "left": 5,
        "prompt_tokens": (4 + 4) + (7 + 4) + (1 + 4) + (4 + 3) + 3,
        "counted": True,
        "answer_tokens": 120,
        "unlimited": 3,
        "unpriced": 3,
        "cost": "0.000259",
    }

    def say(text: str) -> Response:
        if text == "x":
            return Response(400, {"error": {"code": "bad"}})
        usage = {"prompt_tokens_details": {"cached_tokens": 4}, "prompt_tokens": 10}
        return Response(200, {"usage": usage | {"completion_tokens": 5}, "created": 1_790_000_000})

    plan = plan_of(tmp_path / "in", lines[:3])
    target = Said(say)
    with Results(tmp_path / "out.jsonl", plan.requests) as results:
        far = Far(plan, results.known)
        run(plan, results, target, progress=far.add)
        assert str(far) == "3 of 3 requests, 30 tokens, $0.0000320"
        assert json.loads(json.dumps(summary(plan, results, None))) == {
            "results": str(tmp_path / "out.jsonl"),
            "requests": 3,
            "succeeded": 2,
            "failed": 1,
            "left": 0,
            "why": None,
            "failures": {"400 bad": 1},
            "tokens": {"hit": 8, "miss": 12, "output": 10},
            "cost": "0.000032",
        }
