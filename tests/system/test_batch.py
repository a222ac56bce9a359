"""`dsv4 batch` as people run it: against a server process, the engine itself, and killed."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.serving import served
from tests.unit.batch.batches import Reply, api, bad, good, line, read, write

from dsv4.chat.engine import Engine
from dsv4.cli.main import main
from dsv4.server.accounts import Keys

ROOT = Path(__file__).resolve().parents[2]
DSV4 = [sys.executable, "-m", "dsv4"]
ENVIRONMENT = {**os.environ, "PYTHONUNBUFFERED": "1"}

GREEDY = {"model": "nano", "max_tokens": 12, "temperature": 0}
LINES = [
    *(line(f"chat {i}", text, **GREEDY) for i, text in enumerate(["Hello", "What is tea?"])),
    line("thinks", "2 + 2", **GREEDY, thinking={"type": "enabled"}),
    line("completion")
    | {"url": "/v1/completions", "body": GREEDY | {"prompt": "Once upon", "logprobs": 1}},
    line("response")
    | {
        "url": "/v1/responses",
        "body": {"model": "nano", "input": "Hi", "max_output_tokens": 9, "temperature": 0},
    },
    line("no such model", **GREEDY | {"model": "other"}),
    line("wrong type", **GREEDY | {"max_tokens": "many"}),
]


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The base URL of `dsv4 serve nano`, in a process of its own."""
    started = subprocess.Popen(
        [*DSV4, "serve", "nano", "--port", "0"], stderr=subprocess.PIPE, text=True, env=ENVIRONMENT
    )
    try:
        assert started.stderr is not None
        for text in started.stderr:
            if found := re.search(r"on (http://\S+)", text):
                break
        else:
            raise AssertionError("the server did not start")
        yield f"{found[1]}/v1"
    finally:
        started.terminate()
        started.communicate(timeout=30)


def stable(results: Path) -> dict[str, Any]:
    """custom_id -> result, without what is new every time."""
    found = {}
    for one in read(results):
        text = json.dumps(one["response"]["body"])
        assert re.fullmatch("[0-9a-f]{32}", one["response"].pop("request_id"))
        text = re.sub(r'"(created|created_at|completed_at)": \d+(\.\d+)?', r'"\1": 0', text)
        body = re.sub(r'"((cmpl-|resp_|msg_|rs_)[0-9A-Za-z-]+|[0-9a-f-]{36})"', '"id"', text)
        body = re.sub(r'"prompt_cache_(hit|miss)_tokens": \d+|"cached_tokens": \d+', '"": 0', body)
        found[one["custom_id"]] = one | {"response": [one["response"]["status_code"], body]}
    return found


def test_the_engine_gives_what_a_server_gives(
    server: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = write(tmp_path / "in.jsonl", LINES)
    local, remote = tmp_path / "local.jsonl", tmp_path / "remote.jsonl"
    assert main(["batch", str(asked), str(local)]) == 8
    shown = capsys.readouterr()
    assert main(["batch", str(asked), str(remote), "--url", server]) == 8
    assert stable(local) == stable(remote)
    statuses = {name: one["response"][0] for name, one in stable(local).items()}
    failing = {"no such model": 400, "wrong type": 422}
    assert statuses == {one["custom_id"]: 200 for one in LINES} | failing
    assert "5 of 7 requests succeeded, 2 failed, 0 left" in shown.out
    assert "failed: 1 x 422 invalid_request_error" in shown.out
    assert "7 of 7 requests to send: " in shown.err and "2 of 7 requests failed" in shown.err


def test_many_at_once_are_computed_together(tmp_path: Path) -> None:
    lines = [line(str(i), f"Number {i}", **GREEDY) for i in range(12)]
    asked = write(tmp_path / "in.jsonl", lines)
    for together in ("1", "12"):
        out = tmp_path / together
        assert main(["batch", str(asked), str(out), "--together", together]) == 0
    assert stable(tmp_path / "1") == stable(tmp_path / "12")


def test_killed_in_the_middle(tmp_path: Path) -> None:
    """Killed again and again: every request has one result in the end, and none that had one was
    asked again."""
    lines = [line(str(i), str(i)) for i in range(40)]
    asked, out = write(tmp_path / "in.jsonl", lines), tmp_path / "out.jsonl"
    done: set[str] = set()
    again: set[str] = set()

    def say(text: str, before: int) -> Reply:
        if text in done:
            again.add(text)
        time.sleep(0.05)
        return bad(503, Retry_After="0") if text == "7" and not before else good(text)

    with api(say) as (url, posted):
        command = [*DSV4, "batch", str(asked), str(out), "--url", url, "--together", "4"]
        kills = 0
        while True:
            run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            least = len(done) + 6
            while run.poll() is None and kills < 4 and len(whole(out)) < least:
                time.sleep(0.005)
            if kills == 4 or run.poll() is not None:
                shown, errors = run.communicate()
                assert run.returncode == 0, errors
                break
            run.send_signal(signal.SIGKILL)
            run.communicate()
            kills += 1
            done.update(whole(out))
            with out.open("ab") as file:
                file.write(b'{"id": "batch_req_1", "custom')  # as a kill may leave it
    assert kills == 4 and len(done) >= 20
    assert again == set()
    assert sorted(whole(out), key=int) == [str(i) for i in range(40)]
    # Four were under way at each kill; one was tried again.
    assert len(posted) <= 40 + 4 * kills + 1
    assert set(Counter(whole(out)).values()) == {1}
    assert b"40 of 40 requests succeeded, 0 failed, 0 left" in shown


def whole(out: Path) -> list[str]:
    """The custom_ids of the whole lines of results."""
    data = out.read_bytes() if out.exists() else b""
    return [json.loads(one)["custom_id"] for one in data.split(b"\n")[:-1]]


def test_interrupted(tmp_path: Path) -> None:
    lines = [line(str(i), str(i)) for i in range(40)]
    asked, out = write(tmp_path / "in.jsonl", lines), tmp_path / "out.jsonl"

    def say(text: str, before: int) -> Reply:
        time.sleep(0.2)
        return good(text)

    with api(say) as (url, posted):
        command = [*DSV4, "batch", str(asked), str(out), "--url", url]
        run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        while not whole(out):
            time.sleep(0.01)
        run.send_signal(signal.SIGINT)
        shown, errors = run.communicate(timeout=20)
        assert run.returncode == 130 and "error: interrupted" in errors
        # What was under way was waited for.
        assert sorted(whole(out)) == sorted(posted) and len(posted) < 40
        assert f"{len(posted)} of 40 requests succeeded, 0 failed" in shown
        assert main(["batch", str(asked), str(out), "--url", url]) == 0
    assert Counter(posted) == Counter(str(i) for i in range(40))


def test_keys(scripted: Callable[..., Engine], tmp_path: Path) -> None:
    asked, out = write(tmp_path / "in.jsonl", [line("a")]), tmp_path / "out.jsonl"
    (tmp_path / "key").write_text("sk-right\n", encoding="utf-8")
    with served(scripted("Hello"), Keys(("sk-right",))) as url:
        command = ["batch", str(asked), str(out), "--url", f"{url}/v1"]
        assert main([*command, "--key", "sk-wrong"]) == 8
        assert read(out) == []
        assert main([*command, "--key-file", str(tmp_path / "key")]) == 0
    (found,) = read(out)
    assert found["response"]["body"]["choices"][0]["message"]["content"] == "Hello"


def test_costs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [line(str(i), "x" * 400, model="deepseek-v4-pro", max_tokens=1000) for i in range(9)]
    asked, out = write(tmp_path / "in.jsonl", lines), tmp_path / "out.jsonl"
    table = tmp_path / "prices.toml"
    table.write_text(
        '[[model]]\nname = "mine"\nvendor = "me"\n[[model.price]]\nmiss = 10\noutput = 100\n',
        encoding="utf-8",
    )
    with api(lambda text, before: good(text, prompt=100, output=1000)) as (url, posted):
        command = ["batch", str(asked), str(out), "--url", url, "--prices", str(table)]
        command += ["--price", "mine", "--json"]
        assert main([*command, "--dry-run"]) == 0
        values = json.loads(capsys.readouterr().out)
        assert (values["prompt_tokens"], values["answer_tokens"]) == (936, 9000)
        assert values["cost"] == "0.90936" and not values["counted"]
        assert not out.exists() and not posted
        assert main([*command, "--limit-cost", "0.31"]) == 8
        shown = capsys.readouterr()
        values = json.loads(shown.out)
        assert (values["succeeded"], values["left"], values["cost"]) == (3, 6, "0.303")
        assert len(posted) == 3
        assert "6 of 9 requests have no result: the limit of cost is reached" in shown.err
        assert "at most about $0.909" in shown.err
        assert main([*command, "--limit-cost", "1"]) == 0
    assert len(posted) == 9


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--key", "x"], "are for a URL"),
        (["--url", "http://127.0.0.1:1/v1", "--key", "x", "--key-file", "y"], "given twice"),
        (["--url", "localhost"], "is no URL"),
        (["--limit-cost", "much"], "is no amount of USD"),
        (["--limit-cost", "1"], "there is no price for its model"),
        (["--price", "nothing"], "there is no price for 'nothing'"),
        (["--url", "http://127.0.0.1:1/v1", "--key-file", "/none"], "cannot read"),
    ],
)
def test_wrong_options(
    options: list[str], why: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked, out = write(tmp_path / "in.jsonl", [line("a", max_tokens=1)]), tmp_path / "out.jsonl"
    assert main(["batch", str(asked), str(out), *options]) == 2
    assert why in capsys.readouterr().err
    assert not out.exists()
    assert main(["batch", str(asked), str(asked)]) == 2
    assert "would be overwritten" in capsys.readouterr().err


def test_the_example_of_summaries(tmp_path: Path) -> None:
    folder, out = tmp_path / "texts", tmp_path / "out"
    (folder / "inner").mkdir(parents=True)
    (folder / "tea.md").write_text("Tea is a drink made from leaves.", encoding="utf-8")
    (folder / "inner" / "sea.txt").write_text("The sea is salt water.", encoding="utf-8")
    (folder / "no.bin").write_bytes(b"\0")
    script = [sys.executable, str(ROOT / "docs" / "examples" / "summarise.py")]
    run = subprocess.run(
        [*script, str(folder), str(out)], capture_output=True, text=True, env=ENVIRONMENT
    )
    assert run.returncode == 0, run.stderr
    assert "2 of 2 requests succeeded" in run.stdout
    text = (out / "summaries.md").read_text(encoding="utf-8")
    titles = [one for one in text.splitlines() if one.startswith("## ")]
    assert titles == ["## inner/sea.txt", "## tea.md"]
    assert "failed" not in text
