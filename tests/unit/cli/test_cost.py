"""`dsv4 cost`: the figures, their tables, and what it refuses."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from dsv4.cli.main import main
from dsv4.pricing.price import money

OTHER = """
[[model]]
name = "other-large"
vendor = "Other"
[[model.price]]
hit = 0.5
miss = 5
output = 25
"""

REQUESTS = """
{"created": 1777000000, "usage": {"prompt_tokens": 1000, "prompt_cache_hit_tokens": 640, \
"completion_tokens": 200}}

{"input_tokens": 50, "output_tokens": 20, "time": "2026-08-20T02:00:00Z"}
"""


@pytest.fixture
def other(tmp_path: Path) -> str:
    path = tmp_path / "other.toml"
    path.write_text(OTHER)
    return str(path)


@pytest.fixture
def requests(tmp_path: Path) -> str:
    path = tmp_path / "requests.jsonl"
    path.write_text(REQUESTS)
    return str(path)


def facts(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert main(["cost", *arguments, "--json"]) == 0
    read: dict[str, Any] = json.loads(capsys.readouterr().out)
    return read


def test_a_hundred_million_answer_tokens(other: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cost", "--output", "100M", "--at", "2026-04-24", "--prices", other]) == 0
    lines = capsys.readouterr().out.splitlines()
    (pro,) = [line for line in lines if line.startswith("deepseek-v4-pro")]
    (large,) = [line for line in lines if line.startswith("other-large")]
    assert pro.split()[-2:] == ["3.48", "$348.00"]
    assert large.split()[-2:] == ["25", "$2,500.00"]


def test_a_time_says_whether_it_is_peak(capsys: pytest.CaptureFixture[str]) -> None:
    for at, expected in (("2026-08-20T02:00Z", "3.96"), ("2026-08-20", "1.98")):
        asked = ("--output", "1M", "--model", "deepseek-v4-pro", "--at", at)
        (row,) = facts(capsys, *asked)["costs"]
        assert Decimal(row["cost"]) == Decimal(expected)
        assert Decimal(row["cost_at_peak"]) == Decimal("3.96")


def test_requests_are_charged_as_of_their_times(
    requests: str, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = facts(capsys, "--requests", requests, "--per", "day", "--model", "deepseek-v4-pro")
    assert shown["requests"] == 2
    assert shown["tokens"] == {"hit": 640, "miss": 410, "output": 220}
    launch = Decimal("0.145") * 640 + Decimal("1.74") * 360 + Decimal("3.48") * 200
    peak = Decimal("1.32") * 50 + Decimal("3.96") * 20
    assert Decimal(shown["costs"][0]["cost"]) == (launch + peak) / 10**6
    assert [part["period"] for part in shown["periods"]] == ["2026-04-24", "2026-08-20"]
    assert Decimal(shown["periods"][1]["costs"]["deepseek-v4-pro"]) == peak / 10**6
    asked = ("--requests", requests, "--at", "2026-04-24", "--model", "deepseek-v4-pro")
    (row,) = facts(capsys, *asked)["costs"]
    assert Decimal(row["cost"]) == (launch + Decimal("1.74") * 50 + Decimal("3.48") * 20) / 10**6


def test_tables_of_requests(requests: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cost", "--requests", requests, "--per", "month"]) == 0
    shown = capsys.readouterr().out
    assert "2 requests: 640 cached and 410 other prompt tokens, 220 answer tokens" in shown
    assert "2026-04 " in shown and "2026-08 " in shown


def test_spans_of_a_day(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["cost", "--output", "1M", "--at", "2026-05-01", "--per", "day"]
    assert main(asked) == 0
    (row,) = [line for line in capsys.readouterr().out.splitlines() if "v4-flash" in line]
    assert row.split()[-3:] == ["$0.280", "$8.40", "$102.20"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--output", "many"], "--output 'many' is no number of tokens"),
        (["--hit", "-1"], "--hit '-1'"),
        (["--miss", "1.5"], "--miss '1.5'"),
        (["--at", "soon"], "--at 'soon' is no time"),
        (["--at", "2026-04-01"], "no model has a price at 2026-04-01"),
        (["--model", "gpt-17"], "no price for 'gpt-17'"),
        (["--requests", "/no/where"], "cannot read /no/where"),
        (["--prices", "/no/where"], "cannot read /no/where"),
    ],
)
def test_refusals(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cost", *arguments]) in (2, 3)
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("line", ["{", "[]", "{}", '{"usage": 5}', '{"prompt_tokens": -1}'])
def test_a_wrong_line_is_named(
    tmp_path: Path, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "requests.jsonl"
    path.write_text('{"prompt_tokens": 1}\n' + line + "\n")
    assert main(["cost", "--requests", str(path)]) == 2
    assert f"{path}, line 2" in capsys.readouterr().err


def test_tokens_twice(requests: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cost", "--requests", requests, "--output", "5"]) == 2
    assert "given twice" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("usd", "shown"),
    [("0", "$0.00"), ("1234.5", "$1,234.50"), ("0.5", "$0.500"), ("0.0000123456", "$0.0000123")],
)
def test_money(usd: str, shown: str) -> None:
    assert money(Decimal(usd)) == shown
