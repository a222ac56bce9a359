"""Prices by time, exact costs, and what a file of prices may hold."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from dsv4.errors import ConfigError, UsageError
from dsv4.pricing.compare import Work, compare
from dsv4.pricing.file import built_in, read_prices
from dsv4.pricing.price import Tokens
from dsv4.pricing.usage import time_of, tokens_of


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("when", "flash", "pro"),
    [
        ("2026-04-24T00:00", "0.028 0.14 0.28", "0.145 1.74 3.48"),
        ("2026-04-26T12:14", "0.028 0.14 0.28", "0.145 1.74 3.48"),
        ("2026-04-26T12:15", "0.0028 0.14 0.28", "0.003625 0.435 0.87"),
        ("2026-08-13T02:00", "0.0028 0.14 0.28", "0.003625 0.435 0.87"),
        ("2026-08-16T16:00", "0.007 0.22 0.66", "0.022 0.66 1.98"),
        ("2026-08-17T00:59", "0.007 0.22 0.66", "0.022 0.66 1.98"),
        ("2026-08-17T01:00", "0.014 0.44 1.32", "0.044 1.32 3.96"),
        ("2026-08-17T04:00", "0.007 0.22 0.66", "0.022 0.66 1.98"),
        ("2026-08-17T09:59", "0.014 0.44 1.32", "0.044 1.32 3.96"),
        ("2026-08-17T10:00", "0.007 0.22 0.66", "0.022 0.66 1.98"),
        ("2026-09-11T12:00", "0.003 0.15 0.60", "0.022 0.66 1.98"),
        ("2026-09-11T02:00", "0.006 0.30 1.20", "0.044 1.32 3.96"),
        ("2026-09-12T02:00", "0.003 0.15 0.60", "0.022 0.66 1.98"),  # a Saturday
        ("2026-10-01T02:00", "0.003 0.15 0.60", "0.022 0.66 1.98"),  # a holiday in China
    ],
)
def test_the_price_of_a_time(when: str, flash: str, pro: str) -> None:
    for name, expected in (("deepseek-v4-flash", flash), ("deepseek-v4-pro", pro)):
        price = built_in().find(name).at(at(when))
        assert price is not None
        rate = price.at(at(when))
        assert [rate.hit, rate.miss, rate.output] == [Decimal(part) for part in expected.split()]


def test_before_the_launch_there_is_no_price() -> None:
    assert built_in().find("deepseek-v4-pro").at(at("2026-04-23T23:59")) is None
    assert compare(built_in(), [Work(Tokens(output=1), at("2026-04-01T00:00"))]) == []


def test_every_price_names_its_source() -> None:
    assert all(price.source and price.note for model in built_in() for price in model.prices)


def test_costs_are_exact() -> None:
    price = built_in().find("deepseek-v4-pro").at(at("2026-05-01T00:00"))
    assert price is not None
    assert price.rate.cost(Tokens(hit=1)) == Decimal("0.000000003625")
    # In floating point 0.1 + 0.2 is not 0.3, and three hundred million of them drift.
    assert price.rate.cost(Tokens(10**15, 10**15, 3)) == Decimal("438625000.00000261")


def test_aliases_and_unknown_names() -> None:
    assert built_in().find("deepseek-chat").name == "deepseek-v4-flash"
    with pytest.raises(UsageError, match="no price for 'gpt-17'"):
        built_in().find("gpt-17")


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        (
            {
                "prompt_tokens": 10,
                "completion_tokens": 3,
                "prompt_cache_hit_tokens": 8,
                "prompt_cache_miss_tokens": 2,
            },
            Tokens(8, 2, 3),
        ),
        (
            {
                "prompt_tokens": 10,
                "completion_tokens": 3,
                "prompt_tokens_details": {"cached_tokens": 4},
            },
            Tokens(4, 6, 3),
        ),
        (
            {"input_tokens": 10, "output_tokens": 3, "input_tokens_details": {"cached_tokens": 4}},
            Tokens(4, 6, 3),
        ),
        (
            {
                "input_tokens": 10,
                "output_tokens": 3,
                "cache_read_input_tokens": 4,
                "cache_creation_input_tokens": 5,
            },
            Tokens(4, 15, 3),
        ),
        ({"prompt_tokens": 10}, Tokens(0, 10, 0)),
    ],
)
def test_usage_of_every_api(usage: dict[str, Any], expected: Tokens) -> None:
    assert tokens_of(usage) == expected


@pytest.mark.parametrize(
    "usage",
    [
        {},
        {"prompt_tokens": -1},
        {"prompt_tokens": "5"},
        {"prompt_tokens": True},
        {"prompt_tokens": 5, "prompt_tokens_details": {"cached_tokens": 6}},
    ],
)
def test_usage_that_is_none(usage: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        tokens_of(usage)


@pytest.mark.parametrize("value", [[], "soon", 10**20, True])
def test_times_that_are_none(value: Any) -> None:
    if value is True:  # one second after the epoch, as Python sees it
        assert time_of({"created": value}) is not None
        return
    with pytest.raises(UsageError):
        time_of({"created": value})


OTHER = '[[model]]\nname = "a"\nvendor = "A"\n[[model.price]]\nmiss = 5\noutput = 25\n'


def test_a_file_adds_models_and_replaces_those_of_the_same_name(tmp_path: Path) -> None:
    path = tmp_path / "prices.toml"
    path.write_text(OTHER + OTHER.replace('"a"', '"deepseek-v4-pro"'))
    both = built_in().joined(read_prices(path))
    assert [model.name for model in both] == ["deepseek-v4-flash", "deepseek-v4-pro", "a"]
    assert both.find("deepseek-v4-pro").vendor == "A"
    price = both.find("a").at(at("1999-01-01T00:00"))
    assert price is not None and price.rate.hit == 5  # no discount is known


def test_json_means_the_same(tmp_path: Path) -> None:
    path = tmp_path / "prices.json"
    price = {
        "miss": 0.1,
        "output": "0.3",
        "from": "2026-01-02",
        "until": "2026-02-01T00:00:00Z",
        "peak": {"factor": 1.5, "hours": ["22:00-24:00"], "except": ["2026-01-03"]},
    }
    path.write_text(json.dumps({"model": [{"name": "a", "vendor": "A", "price": [price]}]}))
    model = read_prices(path).find("a")
    assert model.at(at("2026-01-01T23:59")) is None and model.at(at("2026-02-01T00:00")) is None
    (read,) = model.prices
    assert read.rate.miss == Decimal("0.1")
    assert read.at(at("2026-01-02T23:30")).output == Decimal("0.45")
    assert read.at(at("2026-01-03T23:30")).output == Decimal("0.3")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "model is missing"),
        ("x = 1", "x is unknown"),
        ("[[", "is not TOML"),
        ("model = [1]", "model 1: 1 is no table"),
        ('[[model]]\nname = "a"', "price is missing"),
        (OTHER.replace("miss = 5", ""), "a, price 1: miss is missing"),
        (OTHER.replace("miss = 5", "miss = true"), "a, price 1: miss = True is no number"),
        (OTHER.replace("miss = 5", "miss = -1"), "out of range"),
        (OTHER.replace("miss = 5", "miss = nan"), "out of range"),
        (OTHER.replace("miss = 5", "miss = 0.0000001"), "more than 6 decimals"),
        (OTHER.replace("miss = 5", 'miss = "much"'), "is no number"),
        (OTHER + "colour = 1", "colour is unknown"),
        (OTHER + 'from = "soon"', "from = soon is no date"),
        (OTHER + 'peak = {factor = 2, hours = ["4-1"]}', "no range of hours"),
        (OTHER + 'peak = {factor = 2, hours = ["04:00-01:00"]}', "no range of hours"),
        (OTHER + 'peak = {factor = 2, hours = ["01:00-24:30"]}', "no range of hours"),
        (OTHER + 'peak = {factor = 2, hours = ["01:00-02:00"], days = ["x"]}', "some of mon"),
        (OTHER + OTHER, "'a' is there twice"),
        (OTHER + "[[model.price]]\nmiss = 1\noutput = 1", "begin after the one before"),
        (OTHER.replace('"A"', "7"), "vendor = 7 is no text"),
    ],
)
def test_a_wrong_file_names_its_place(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "prices.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message) as raised:
        read_prices(path)
    assert str(path) in str(raised.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read"):
        read_prices(tmp_path / "none.toml")
