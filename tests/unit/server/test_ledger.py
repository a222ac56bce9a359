"""Keys with budgets: what is charged, refused, kept and shown."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest
from tests.serving import HELLO, Build, client

from dsv4.chat.answer import Usage
from dsv4.errors import ConfigError, RequestError
from dsv4.pricing.price import Tokens
from dsv4.server.ledger import Ledger
from dsv4.server.ledger_file import open_ledger
from dsv4.server.ledger_store import Entry, Store, Used

KEYS = """
price = "deepseek-v4-flash"

[[key]]
name = "ann"
key = "sk-ann-0001"
budget = 0.01
price = "deepseek-v4-pro"

[[key]]
name = "ben"
key = "sk-ben-0002"
requests_per_minute = 3
tokens_per_day = 1000

[[key]]
name = "eve"
key = "sk-eve-0003"
admin = true
"""
NOON = datetime(2026, 8, 20, 12, tzinfo=UTC)
Open = Callable[..., Ledger]


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Open]:
    """opened(text) -> the ledger of a file of keys with that text, at noon of 20 August 2026."""
    made: list[Ledger] = []

    def build(text: str = KEYS) -> Ledger:
        path = tmp_path / "keys.toml"
        path.write_text(text)
        ledger = open_ledger(path)
        ledger.now = lambda: NOON
        made.append(ledger)
        return ledger

    yield build
    for ledger in made:
        ledger.close()


def test_a_spent_budget_is_refused_and_still_shown(opened: Open) -> None:
    ledger = opened()
    ann = ledger.identify("sk-ann-0001")
    assert ann.balance()["balance_infos"][0]["total_balance"] == "0.01"
    ann.charge("nano", Usage(prompt=2000, completion=4000, reasoning=3000, cached=500))
    spent = (Decimal("0.022") * 500 + Decimal("0.66") * 1500 + Decimal("1.98") * 4000) / 10**6
    assert ledger.spent("ann") == spent < Decimal("0.01")
    ledger.identify("sk-ann-0001").charge("nano", Usage(0, 1000, 0))
    with pytest.raises(RequestError, match=r"^Insufficient Balance$") as refused:
        ledger.identify("sk-ann-0001")
    assert refused.value.status == 402
    assert ledger.find("sk-ann-0001").balance() == {
        "is_available": False,
        "balance_infos": [
            {
                "currency": "USD",
                "total_balance": "0.00",
                "granted_balance": "0.00",
                "topped_up_balance": "0.00",
            }
        ],
    }


@pytest.mark.parametrize("key", [None, "", "sk-ann-000", "sk-ann-00011", "ключ", "\ud83d"])
def test_other_keys_are_unknown(opened: Open, key: str | None) -> None:
    with pytest.raises(RequestError) as refused:
        opened().identify(key)
    assert refused.value.status == 401
    assert key is None or not key or key not in str(refused.value)


def test_limits(opened: Open) -> None:
    ledger = opened()
    for _ in range(3):
        ledger.identify("sk-ben-0002")
    with pytest.raises(RequestError, match="3 requests per minute") as refused:
        ledger.identify("sk-ben-0002")
    assert refused.value.status == 429
    ledger.find("sk-ben-0002").charge("nano", Usage(900, 100, 0))
    with pytest.raises(RequestError, match="1000 tokens per day"):
        ledger.identify("sk-ben-0002")
    ledger.identify("sk-eve-0003")  # others go on


def test_usage_is_remembered(opened: Open, tmp_path: Path) -> None:
    ledger = opened()
    ledger.find("sk-ben-0002").charge("nano", Usage(100, 20, 5, cached=60))
    ledger.find("sk-ben-0002").charge("nano", Usage(100, 20, 5, cached=60))
    before = ledger.usage(ledger.find("sk-eve-0003").holder)
    ledger.close()
    again = opened()
    assert again.usage(again.find("sk-eve-0003").holder) == before
    assert again.spent("ben") == ledger.spent("ben") > 0
    (ben,) = [row for row in before["keys"] if row["name"] == "ben"]
    assert ben["requests"] == 2
    assert ben["prompt_cache_hit_tokens"] == 120 and ben["prompt_cache_miss_tokens"] == 80
    assert ben["completion_tokens"] == 40 and ben["reasoning_tokens"] == 10
    flash = (Decimal("0.007") * 120 + Decimal("0.22") * 80 + Decimal("0.66") * 40) / 10**6
    pro = (Decimal("0.022") * 120 + Decimal("0.66") * 80 + Decimal("1.98") * 40) / 10**6
    assert Decimal(ben["cost"]) == flash and "E" not in ben["cost"]
    assert {row["model"]: Decimal(row["cost"]) for row in ben["elsewhere"]} == {
        "deepseek-v4-flash": flash,
        "deepseek-v4-pro": pro,
    }
    assert [row["day"] for row in ben["days"]] == ["2026-08-20"]


def test_a_budget_is_spent_over_http(opened: Open, scripted: Build) -> None:
    ledger = opened(KEYS.replace("budget = 0.01", "budget = 0.00002"))
    ask = {"model": "scripted", "messages": HELLO, "max_tokens": 9}

    def headers(key: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {key}"}

    ann, eve = headers("sk-ann-0001"), headers("sk-eve-0003")
    with client(scripted("some words"), ledger) as http:
        answer = http.post("/v1/chat/completions", json=ask, headers=ann).json()
        assert answer["choices"][0]["message"]["content"] == "some word"
        refused = http.post("/v1/chat/completions", json=ask, headers=ann)
        assert refused.status_code == 402
        assert refused.json()["error"]["message"] == "Insufficient Balance"
        # One that has nothing left may still look.
        assert http.get("/user/balance", headers=ann).json()["is_available"] is False
        own = http.get("/v1/usage", headers=ann).json()
        assert [row["name"] for row in own["keys"]] == ["ann"]
        assert own["total"]["completion_tokens"] == answer["usage"]["completion_tokens"] == 9
        assert own["total"]["prompt_cache_miss_tokens"] == answer["usage"]["prompt_tokens"]
        assert Decimal(own["total"]["cost"]) == ledger.spent("ann") > Decimal("0.00002")
        every = http.get("/usage", headers=eve).json()
        assert [row["name"] for row in every["keys"]] == ["ann", "ben", "eve"]
        assert every["total"]["cost"] == own["total"]["cost"]
        assert http.get("/usage").status_code == 401
        assert http.get("/web/about.json").json()["price"] == "deepseek-v4-flash"


def test_one_server_has_the_file(opened: Open) -> None:
    opened()
    with pytest.raises(ConfigError, match="locked") as refused:
        opened()
    assert refused.value.hint == "another server has it"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "key: Field required"),
        ("key = []", "key: "),
        (KEYS + "colour = 1", r"key.2.colour: "),
        (KEYS.replace("budget = 0.01", "budget = -1"), r"key.0.budget: "),
        (KEYS.replace("budget = 0.01", "budget = true"), r"key.0.budget: "),
        (KEYS.replace("sk-ben-0002", "short"), r"key.1.key: "),
        (KEYS.replace("sk-ben-0002", "sk-ann-0001"), "same key"),
        (KEYS.replace('"ben"', '"ann"'), "same name"),
        (KEYS.replace("deepseek-v4-pro", "gpt-17"), "ann: there is no price for 'gpt-17'"),
        ('[[key]]\nname = "a"\nkey = "sk-long-enough"\nbudget = 1', "a budget and no price"),
        ('prices = "none.toml"\n' + KEYS, "cannot read"),
        ('ledger = "no/where"\n' + KEYS, "cannot use the ledger"),
    ],
)
def test_a_wrong_file_of_keys(opened: Open, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as raised:
        opened(text)
    assert (
        "keys.toml" in str(raised.value)
        or "none.toml" in str(raised.value)
        or ("ledger" in str(raised.value))
    )
    assert "sk-" not in str(raised.value)


def test_a_file_that_is_no_ledger(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite3"
    path.write_bytes(b"something else entirely, and long enough to look at" * 100)
    with pytest.raises(ConfigError, match="not a database"):
        Store(path)
    path.unlink()
    with sqlite3.connect(path) as file:
        file.execute("pragma user_version = 7")
    file.close()
    with pytest.raises(ConfigError, match="version 7"):
        Store(path)


WRITER = """
import sys
from pathlib import Path
from dsv4.pricing.price import Tokens
from dsv4.server.ledger_store import Entry, Store, Used
store = Store(Path(sys.argv[1]))
for n in range(10**9):
    store.add(Entry("a", "2026-08-20", "m", Used(1, Tokens(1, 2, 3), 1)))
    print(n + 1, flush=True)
"""


def test_a_killed_process_loses_nothing_it_noted(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite3"
    noted = 0
    for _ in range(3):
        command = [sys.executable, "-c", WRITER, str(path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            last = 0
            for line in writer.stdout:
                last = int(line)
                if last == 200:
                    writer.send_signal(signal.SIGKILL)
        noted += last
        store = Store(path)
        (entry,) = store.entries()
        store.close()
        # It may have been killed between the note and the line that tells of it.
        assert noted <= entry.used.requests <= noted + 1
        assert entry.used.tokens == Tokens(
            entry.used.requests, 2 * entry.used.requests, 3 * entry.used.requests
        )
        noted = entry.used.requests
        with sqlite3.connect(path) as file:
            assert file.execute("pragma integrity_check").fetchone() == ("ok",)
        file.close()


def test_a_store_that_fails_is_logged_and_the_budget_kept(
    opened: Open, caplog: pytest.LogCaptureFixture
) -> None:
    ledger = opened()
    ledger.close()
    ledger.find("sk-ann-0001").charge("nano", Usage(0, 10**6, 0))
    assert "not in the ledger" in caplog.text and "sk-" not in caplog.text
    with pytest.raises(RequestError, match="Insufficient"):
        ledger.identify("sk-ann-0001")


def test_costs_survive_exactly(tmp_path: Path) -> None:
    store = Store(tmp_path / "ledger.sqlite3")
    cost = Decimal("0.000000003625")
    for _ in range(3):
        store.add(Entry("a", "2026-08-20", "m", Used(1, Tokens(1), 0, cost)))
    (entry,) = store.entries()
    store.close()
    assert entry.used.cost == 3 * cost
