"""Evaluations that are paid for: nothing is asked twice, nothing costs more than was allowed."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path

import pytest
from tests.serving import wait
from tests.unit.batch.batches import Reply, api, bad
from tests.unit.evaluation.endpoints import OUTPUT, PROMPT, said

from dsv4.cli.main import main
from dsv4.errors import RequestError, UsageError
from dsv4.evaluation.benchmark import Settings, estimate, run
from dsv4.evaluation.benchmarks.catalogue import BENCHMARKS
from dsv4.evaluation.endpoint import Endpoint
from dsv4.evaluation.records import stored
from dsv4.evaluation.spending import Spending
from dsv4.evaluation.standard.records import read
from dsv4.pricing.file import built_in

GSM8K = BENCHMARKS["gsm8k"]
PRICE = built_in().find("deepseek-v4-flash")
FEW = Settings(limit=12)


@pytest.fixture
def url() -> Iterator[str]:
    """A server that says 4."""
    with api(lambda text, before: said("Answer: 4")) as (url, _):
        yield url


def test_a_killed_run_repeats_no_paid_request(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Killed without warning with requests under way: what was answered is not asked again."""
    paid: Counter[str] = Counter()
    gone = threading.Event()
    lock = threading.Lock()

    def say(text: str, before: int) -> Reply:
        with lock:
            held = len(paid) >= 5 and not gone.is_set()
            if not held:
                paid[text] += 1
        if held:
            gone.wait(60)
            return None  # nobody waits for this answer, and nobody pays for it
        return said("Answer: 4")

    options = ["--served", "m", "--only", "gsm8k", "--limit", "12", "--together", "3"]
    options += ["--out", str(tmp_path)]
    receive, send = os.pipe()
    child = os.fork()  # before there are threads
    if child == 0:
        try:
            main(["eval", os.read(receive, 100).decode(), *options])
        finally:
            os._exit(1)
    with api(say) as (url, asked):
        try:
            os.write(send, url.encode())
            records = tmp_path / "gsm8k.jsonl"
            wait(lambda: records.is_file() and records.read_text().count("\n") == 6, seconds=60)
            wait(lambda: len(asked) == 8, seconds=60)
        finally:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            os.close(receive)
            os.close(send)
            gone.set()
        command = ["eval", url, *options]
        first = set(paid)
        assert len(first) == 5
        assert main(command) == 0
        assert len(asked) == 8 + 12 - 5
        assert not first & set(asked[8:])
    assert set(paid.values()) == {1} and len(paid) == 12
    shown = capsys.readouterr()
    assert "gsm8k: 7 of 12 questions to ask" in shown.err
    assert "| no thinking | 12 |" in shown.out


def test_what_is_under_way_when_it_is_stopped_is_kept(tmp_path: Path) -> None:
    stopped = threading.Event()

    def say(text: str, before: int) -> Reply:
        stopped.set()
        time.sleep(0.05)
        return said("Answer: 4")

    with api(say) as (url, asked):
        spending = Spending(PRICE, stopped=stopped.is_set)
        target = Endpoint(url, "m", together=4)
        with pytest.raises(KeyboardInterrupt):
            run(GSM8K, target, FEW, tmp_path, spending=spending)
        assert 1 <= len(asked) < 12
        assert len(stored(tmp_path / "gsm8k.jsonl", target.fingerprint)) == len(asked)


def test_a_failure_loses_no_answer(tmp_path: Path) -> None:
    started = threading.Barrier(4, timeout=20)

    def say(text: str, before: int) -> Reply:
        if started.wait() == 0:
            return bad(402)
        time.sleep(0.3)
        return said("Answer: 4")

    with api(say) as (url, asked):
        target = Endpoint(url, "m", together=4)
        with pytest.raises(RequestError, match="402"):
            run(GSM8K, target, FEW, tmp_path)
        assert len(asked) == 4
        assert len(stored(tmp_path / "gsm8k.jsonl", target.fingerprint)) == 3


def test_costs_are_told_and_limited(tmp_path: Path) -> None:
    with api(lambda text, before: said("Answer: 4", output=2000)) as (url, _):
        _costs(url, tmp_path)


def _costs(url: str, tmp_path: Path) -> None:
    target = Endpoint(url, "m", together=2)
    spending = Spending(PRICE)
    before = estimate(GSM8K, target, FEW, tmp_path, spending)
    assert (before.questions, before.answered, before.tokens.output) == (12, 0, 12 * 2048)
    assert not list(tmp_path.iterdir())
    assert before.cost is not None and before.cost == PRICE.most(before.tokens)

    limit = before.cost / 3
    spending = Spending(PRICE, limit)
    with pytest.raises(RequestError, match="limit of cost"):
        run(GSM8K, target, FEW, tmp_path, spending=spending)
    known = stored(tmp_path / "gsm8k.jsonl", target.fingerprint)
    assert 0 < len(known) < 12
    assert spending.paid == spending.cost(known.values()) <= limit
    one = next(iter(known.values()))
    assert (one.miss, one.hit, one.tokens) == (PROMPT, 0, 2000) and one.when > 1.7e9

    spending = Spending(PRICE, before.cost)
    after = estimate(GSM8K, target, FEW, tmp_path, spending)
    assert after.answered == len(known) and spending.paid > 0
    result = run(GSM8K, target, FEW, tmp_path, spending=spending)
    assert (result.prompt_tokens, result.answer_tokens) == (12 * PROMPT, 12 * 2000)
    assert result.cost is not None and Decimal(result.cost) == spending.paid
    with pytest.raises(UsageError, match="price"):
        Spending(None, Decimal(1))


def test_the_command(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)

    def command(*options: str) -> int:
        return main(["eval", url, "--served", "deepseek-v4-flash", "--limit", "2", *options])

    assert command("--only", "gsm8k,mmlu", "--dry-run") == 0
    shown = capsys.readouterr()
    assert "mmlu: 114 of 114 questions to ask: about" in shown.err
    assert "all: 116 of 116 questions" in shown.err and "at most about $" in shown.err
    assert not shown.out and not (tmp_path / "eval").exists()
    assert command("--only", "gsm8k", "--dry-run", "--json", "--effort", "high,off") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["all"]["questions"] == 4 and told["all"]["answer_tokens"] == 2 * (2048 + 32768)
    assert command("--only", "own", "--quick", "--dry-run") == 0
    shown = capsys.readouterr().err
    assert "taskmaster: left out, needs --corpora" in shown
    assert "blimp: left out, needs a model folder" in shown and "tools: 12 of 12" in shown

    assert command("--only", "gsm8k", "--limit-cost", "0") == 8
    assert "limit of cost" in capsys.readouterr().err
    assert command("--only", "gsm8k,variables", "--lengths", "512,1024", "--together", "2") == 0
    shown = capsys.readouterr()
    assert "| GSM8K | no thinking | 2 |" in shown.out and "nobody measured them here" in shown.out
    assert "| 90.8 | 92.6 |" in shown.out  # the base models' numbers
    assert "| 512 | 2 |" in shown.out and "| 1024 | 2 |" in shown.out
    assert "--only gsm8k,variables" in shown.out
    assert f"Charged: {6 * PROMPT} prompt and {6 * OUTPUT} answer tokens, $" in shown.out
    folder = tmp_path / "eval" / "deepseek-v4-flash"
    assert json.loads((folder / "results.json").read_text())["benchmarks"]["gsm8k"]["cost"]


def test_a_report_claims_data_that_were_asked(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    options = ["--data", str(data), "--served", "m", "--limit", "2", "--out", str(tmp_path)]

    def asked(name: str) -> tuple[str, str]:
        """What was noted, and the options in the results."""
        assert main(["eval", url, *options, "--only", name, "--json"]) == 0
        shown = capsys.readouterr()
        return shown.err, json.loads(shown.out)["benchmarks"][name]["options"]

    note = f"gsm8k: gsm8k_test.jsonl not in {data}, the bundled ones are asked\n"
    told, claimed = asked("gsm8k")
    assert note in told and claimed == "--limit 2"
    records = [json.dumps(record) + "\n" for record in read(Settings(), "gsm8k_test")]
    (data / "gsm8k_test.jsonl").write_text("".join(records), encoding="utf-8")
    told, claimed = asked("gsm8k")
    assert note not in told and claimed == "--data DATA --limit 2"
    (data / "bbh.jsonl").write_text(
        "".join(json.dumps(record) + "\n" for record in read(Settings(), "bbh")[:40]),
        encoding="utf-8",
    )
    told, claimed = asked("bbh")
    assert "bbh: bbh_cot_prompts.jsonl not in" in told and claimed == "--data DATA --limit 2"


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("nano", "--dry-run"), "for a URL"),
        (("nano", "--price", "deepseek-v4-pro"), "for a URL"),
        (("http://127.0.0.1:9/v1", "--served", "m", "--only", "text"), "text needs a model folder"),
        (("http://127.0.0.1:9/v1",), "--served"),
        (("http://127.0.0.1:9/v1", "--served", "m", "--effort", "low"), "off, high, max"),
        (("http://127.0.0.1:9/v1", "--served", "m", "--lengths", "4K"), "4096,131072"),
        (("http://127.0.0.1:9/v1", "--served", "m", "--limit-cost", "1"), "--price"),
        (("http://127.0.0.1:9/v1", "--served", "m", "--price", "gpt"), "no price for"),
        (("http://127.0.0.1:9/v1", "--served", "m", "--harness", "a", "--only", "b"), "--harness"),
    ],
)
def test_mistakes(
    options: tuple[str, ...], told: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["eval", *options, "--out", str(tmp_path)]) == 2
    assert told in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_requests_say_what_was_wanted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dsv4.evaluation.client import Client, Response

    bodies: list[dict] = []  # type: ignore[type-arg]
    post: Callable[..., Response] = lambda self, path, body: (  # noqa: E731
        bodies.append(body) or Response(200, json.loads(said("Answer: 4")[2]))  # type: ignore[func-returns-value,index]
    )
    monkeypatch.setattr(Client, "post", post)
    settings = Settings(limit=1, efforts=("max",), answer_tokens=99, temperature=1.0)
    for plain in (False, True):
        run(GSM8K, Endpoint("http://x", "m", plain=plain), settings, tmp_path / str(plain))
    own, openai = bodies
    assert own["thinking"] == {"type": "enabled"} and own["reasoning_effort"] == "max"
    assert (own["max_tokens"], own["temperature"], own["seed"]) == (99, 1.0, 0)
    assert "thinking" not in openai and "max_tokens" not in openai
    assert openai["max_completion_tokens"] == 99
