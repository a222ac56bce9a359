"""Other people's harnesses: the relay, the commands, the logs."""

from __future__ import annotations

import json
import shlex
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from tests.unit.batch.batches import Reply, api, bad
from tests.unit.evaluation.endpoints import OUTPUT, PROMPT, said

from dsv4.cli.main import main
from dsv4.errors import DataError, UsageError
from dsv4.evaluation.client import Client
from dsv4.evaluation.harness import logs
from dsv4.evaluation.harness import plan as plans
from dsv4.evaluation.harness.plan import Step, plan
from dsv4.evaluation.harness.relay import Relay
from dsv4.evaluation.spending import Spending
from dsv4.pricing.file import built_in

PRICE = built_in().find("deepseek-v4-flash")


def _post(url: str, body: Any) -> tuple[int, dict[str, Any]]:
    request = urllib.request.Request(f"{url}/chat/completions", json.dumps(body).encode())
    try:
        with urllib.request.urlopen(request, timeout=20) as response:
            return response.status, json.loads(response.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read())


def _ask(url: str, text: str, **more: Any) -> tuple[int, str]:
    body = {"model": "any", "messages": [{"role": "user", "content": text}], **more}
    status, answer = _post(url, body)
    return status, answer["choices"][0]["message"]["content"] if status == 200 else ""


def _numbered(text: str, before: int) -> Reply:
    return said(f"{text} {before}")


def test_answers_that_were_paid_for_come_from_the_records(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    with api(_numbered) as (url, asked):
        for run in range(2):
            with Relay(Client(url), "m", path, Spending(PRICE)) as relay:
                found = [_ask(relay.url, text)[1] for text in ("a", "b", "a")]
                assert found == ["a 0", "b 0", "a 1"]  # equal requests have answers of their own
                assert (relay.sent, relay.repeated) == ((3, 0), (0, 3))[run]
        assert asked == ["a", "b", "a"]
        spending = Spending(PRICE)
        with Relay(Client(url), "m", path, spending) as relay:
            assert relay.answers == 3 and spending.paid > 0
            assert (relay.tokens.miss, relay.tokens.output) == (3 * PROMPT, 3 * OUTPUT)
            assert _ask(relay.url, "a", temperature=0.5)[1] == "a 2"  # another request
    with pytest.raises(UsageError, match="another model"):
        Relay(Client(url), "other", path, Spending())


def test_a_failure_is_passed_on_and_not_kept(tmp_path: Path) -> None:
    def say(text: str, before: int) -> Reply:
        return said("ok") if before else bad(400, "context_length_exceeded")

    with api(say) as (url, _), Relay(Client(url), "m", tmp_path / "r", Spending()) as relay:
        assert _ask(relay.url, "a") == (400, "")
        assert _ask(relay.url, "a") == (200, "ok")
        assert relay.answers == 1
    with Relay(Client("http://127.0.0.1:9", retries=0), "m", tmp_path / "s", Spending()) as relay:
        assert _ask(relay.url, "a") == (503, "")


def test_limits_of_the_relay(tmp_path: Path) -> None:
    with api(_numbered) as (url, asked):
        client, stopped = Client(url), threading.Event()
        with Relay(client, "m", tmp_path / "r", Spending(PRICE, Decimal("0.001"))) as relay:
            assert _ask(relay.url, "a", max_tokens=100)[0] == 200
            assert _ask(relay.url, "b")[0] == 402  # without a limit it could cost more
            assert _ask(relay.url, "b", max_tokens=1_000_000)[0] == 402
            assert _ask(relay.url, "c", stream=True)[0] == 400
            assert _post(relay.url, [1])[0] == 400
        with Relay(client, "m", tmp_path / "s", Spending(stopped=stopped.is_set)) as relay:
            assert _ask(relay.url, "a")[0] == 200
            stopped.set()
            assert _ask(relay.url, "d")[0] == 402
        assert asked == ["a", "a"]


def test_the_relay_adds_what_a_harness_does_not_know(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[Any] = []
    original = Client.post

    def post(self: Client, path: str, body: Any) -> Any:
        sent.append((path, body))
        return original(self, path, body)

    monkeypatch.setattr(Client, "post", post)
    fields = {"thinking": {"type": "enabled"}, "temperature": 1.0}
    with (
        api(_numbered) as (url, _),
        Relay(Client(url, "sk"), "m", tmp_path / "r", Spending(), fields) as relay,
    ):
        _ask(relay.url, "a", temperature=0.2)
    ((path, body),) = sent
    assert path == "chat/completions" and body["model"] == "m"
    assert body["thinking"] == {"type": "enabled"} and body["temperature"] == 0.2


def test_what_is_under_way_on_leaving_is_kept(tmp_path: Path) -> None:
    asked, go = threading.Event(), threading.Event()

    def say(text: str, before: int) -> Reply:
        asked.set()
        go.wait(20)
        return said("late")

    with api(say) as (url, _):
        with Relay(Client(url), "m", tmp_path / "r", Spending()) as relay:
            asker = threading.Thread(target=_ask, args=(relay.url, "a"))
            asker.start()
            asked.wait(20)
            threading.Timer(0.2, go.set).start()
        assert relay.answers == 1
        asker.join()


def _commands(capsys: pytest.CaptureFixture[str], *options: str) -> list[list[str]]:
    url = "https://api.deepseek.com"
    assert main(["eval", url, "--served", "m", *options, "--dry-run"]) == 0
    return [shlex.split(line) for line in capsys.readouterr().out.splitlines()]


def _option(command: list[str], name: str) -> list[str]:
    return [command[i + 1] for i, word in enumerate(command) if word == name]


def test_swe_bench_is_run_by_its_own_harness(capsys: pytest.CaptureFixture[str]) -> None:
    write, test = _commands(capsys, "--harness", "swe-bench", "--limit", "3", "--together", "2")
    assert write[:4] == ["OPENAI_API_KEY=relay", "MSWEA_COST_TRACKING=ignore_errors",
                         "mini-extra", "swebench"]  # fmt: skip
    assert _option(write, "--model") == ["openai/m"]
    assert _option(write, "--subset") == ["verified"] and _option(write, "--slice") == ["0:3"]
    base, url = _option(write, "--config")
    assert base == "swebench.yaml" and url.startswith(
        "model.model_kwargs.api_base=http://127.0.0.1:"
    )
    assert test[:3] == [sys.executable, "-m", "swebench.harness.run_evaluation"]
    assert _option(test, "--predictions_path") == [_option(write, "--output")[0] + "/preds.json"]
    assert _option(test, "--max_workers") == _option(write, "--workers") == ["2"]


def test_terminal_bench_is_run_by_harbor(capsys: pytest.CaptureFixture[str]) -> None:
    (command,) = _commands(capsys, "--harness", "terminal-bench", "--limit", "3")
    assert command[:3] == ["OPENAI_API_KEY=relay", "harbor", "run"]
    assert _option(command, "--dataset") == ["terminal-bench@2.0"]
    assert _option(command, "--model") == ["openai/m"]
    assert _option(command, "--agent-kwarg")[0].startswith("api_base=http://127.0.0.1:")
    assert _option(command, "--n-tasks") == ["3"]


def test_tasks_are_run_by_inspect(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (command,) = _commands(capsys, "--harness", "inspect_evals/gpqa_diamond,inspect_evals/hle")
    assert command[:5] == ["DSV4_API_KEY=relay", sys.executable, "-m", "inspect_ai", "eval"]
    assert command[5:7] == ["inspect_evals/gpqa_diamond", "inspect_evals/hle"]
    assert _option(command, "--model") == ["openai-api/dsv4/m"]
    assert "--limit" not in command
    own = plan(("my_task.py", "folder/other.py@task"), "u", "m", tmp_path, 1, None)
    assert own.steps[0].modules == ("inspect_ai", "openai")
    with pytest.raises(UsageError, match="one harness"):
        plan(("swe-bench", "my_task.py"), "u", "m", tmp_path, 1, None)


def test_what_is_missing_is_told_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    step = Step(("x",), modules=("json", "no_such_module"), programs=("sh", "no-such-program"))
    assert step.missing() == ["no_such_module", "no-such-program"]
    monkeypatch.setattr(plans.shutil, "which", lambda name: None)
    options = ["--served", "m", "--harness", "swe-bench", "--out", str(tmp_path / "out")]
    assert main(["eval", "http://127.0.0.1:9/v1", *options]) == 2
    shown = capsys.readouterr().err
    assert "mini-extra" in shown and "hint: pip install" in shown
    assert not (tmp_path / "out").exists()


def _log(folder: Path, status: str = "success", **samples: Any) -> Path:
    scored = [
        {"id": name, "epoch": 1, "scores": {"match": {"value": value}}}
        for name, values in samples.items()
        for value in values
    ]
    log = {
        "version": 2,
        "status": status,
        "eval": {"task": "inspect_evals/gpqa_diamond"},
        "stats": {"started_at": "2026-11-01T10:00:00+00:00",
                  "completed_at": "2026-11-01T10:01:30+00:00"},
        "samples": scored,
    }  # fmt: skip
    path = folder / f"{status}.json"
    path.write_text(json.dumps(log), encoding="utf-8")
    return path


def test_logs_become_results(tmp_path: Path) -> None:
    path = _log(tmp_path, a=["C", "I"], b=["C", "C"], c=[1.0], d=[True], e=["no score"])
    (result,) = logs.read([path], "--harness x", "high")
    assert result.name == "inspect/inspect_evals/gpqa_diamond" and result.seconds == 90
    (row,) = result.rows
    assert (row.group, row.measure, row.count) == ("high", "right", 4)
    assert row.mean == (0.5 + 1 + 1 + 1) / 4  # epochs of a sample are one
    with pytest.raises(DataError, match="did not end"):
        list(logs.read([_log(tmp_path, "error")], "", ""))
    with pytest.raises(DataError, match="no log"):
        list(logs.read([tmp_path / "none"], "", ""))


INSPECT = """
import json, os, sys, urllib.request
options = dict(zip(sys.argv[1::2], sys.argv[2::2]))
def ask(i):
    body = {"model": "m", "messages": [{"role": "user", "content": f"q{i}"}]}
    request = urllib.request.Request(options["--url"] + "/chat/completions",
        json.dumps(body).encode(), {"Authorization": "Bearer " + os.environ["DSV4_API_KEY"]})
    with urllib.request.urlopen(request) as response:
        return json.load(response)["choices"][0]["message"]["content"]
os.makedirs(options["--log-dir"], exist_ok=True)
samples = []
for i in range(4):
    if os.path.exists("die") and i == 2:
        sys.exit(3)
    value = "C" if ask(i) == f"q{i} 0" else "I"
    samples.append({"id": i, "scores": {"match": {"value": value}}})
log = {"status": "success", "eval": {"task": "gpqa_diamond"}, "samples": samples}
json.dump(log, open(options["--log-dir"] + f"/{os.getpid()}.json", "w"))
"""


def test_an_interrupted_harness_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The whole command with a small program in place of Inspect that dies in the middle."""
    program = tmp_path / "inspect.py"
    program.write_text(INSPECT, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    real = plans._inspect

    def stand_in(tasks: Any, url: str, model: str, folder: Path, *more: Any) -> plans.Plan:
        made = real(tasks, url, model, folder, *more)
        command = (sys.executable, str(program), "--url", url, "--log-dir", str(folder))
        return plans.Plan(made.name, (Step(command, made.steps[0].env),), made.hint, folder)

    monkeypatch.setattr(plans, "_inspect", stand_in)
    with api(_numbered) as (url, asked):
        command: Callable[[], int] = lambda: main(  # noqa: E731
            ["eval", url, "--served", "deepseek-v4-flash", "--harness", "gpqa_diamond",
             "--effort", "high"]
        )  # fmt: skip
        (tmp_path / "die").touch()
        assert command() == 8
        assert (
            "exit code 3" in (shown := capsys.readouterr().err) and "2 requests were sent" in shown
        )
        (tmp_path / "die").unlink()
        assert command() == 0
        assert asked == ["q0", "q1", "q2", "q3"]
        shown = capsys.readouterr()
        assert "2 requests were sent, 2 had an answer" in shown.err
        assert "| GPQA Diamond | high | 4 | 100.0 (51.0 to 100.0) | 87.4 | 89.1 |" in shown.out


@pytest.mark.slow
def test_inspect_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Needs the extra: pip install 'dsv4[harness]'."""
    pytest.importorskip("inspect_ai")
    monkeypatch.chdir(tmp_path)
    Path("sums.py").write_text(
        "from inspect_ai import Task, task\n"
        "from inspect_ai.dataset import Sample\n"
        "from inspect_ai.scorer import match\n"
        "@task\n"
        "def sums():\n"
        "    samples = [Sample(input=str(i), target=str(i % 2)) for i in range(6)]\n"
        "    return Task(dataset=samples, scorer=match())\n",
        encoding="utf-8",
    )
    with api(lambda text, before: said("1")) as (url, asked):
        for _ in range(2):
            options = ["--harness", "sums.py", "--out", "out", "--json"]
            assert main(["eval", url, "--served", "m", *options]) == 0
            found = json.loads(capfd.readouterr().out)["benchmarks"]["inspect/sums"]
            assert (found["rows"][0]["count"], found["rows"][0]["mean"]) == (6, 0.5)
        assert sorted(asked) == [str(i) for i in range(6)]
