"""`dsv4 verify URL`: options, cost, what is printed, interruption."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path

import pytest
from tests.upstream import Upstream, running

from dsv4.cli.main import main
from dsv4.evaluation.conformance.probes.budget import Budget
from dsv4.evaluation.conformance.probes.catalogue import chosen
from dsv4.evaluation.conformance.probes.run import verify_url
from dsv4.evaluation.conformance.probes.service import Service


def test_a_sound_server_passes(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    with running(Upstream()) as url:
        code = main(["verify", url, "--only", "usage,markup", "--html", str(page)])
    said = capsys.readouterr()
    assert code == 0, said.err
    assert "answers add up" in said.out and "passed: 0 errors, 0 warnings" in said.out
    assert "no price is known" in said.err and "1 of 2: usage" in said.err
    HTMLParser().feed(page.read_text(encoding="utf-8"))
    assert "answers add up" in page.read_text(encoding="utf-8")


def test_a_fault_is_exit_code_1_and_json(capsys: pytest.CaptureFixture[str]) -> None:
    with running(Upstream("sums wrongly")) as url:
        assert main(["verify", url, "--only", "usage,encoding", "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["passed"] is False and report["findings"][0]["where"] == "usage"
    assert report["skipped"][0]["why"].endswith("--tokenizer FOLDER")


def test_the_cost_is_told_and_nothing_asked(capsys: pytest.CaptureFixture[str]) -> None:
    upstream = Upstream()
    with running(upstream) as url:
        command = ["verify", url, "--dry-run", "--max-tokens", "8000000", "--minutes", "9"]
        assert main([*command, "--price", "deepseek-v4-pro"]) == 0
    said = capsys.readouterr().out
    assert "9 minutes and 8,000,000 tokens, $" in said and "(deepseek-v4-pro)" in said
    assert upstream.requests == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nano", "--only", "usage"], "--only is for a URL"),
        (["nano", "--minutes", "3"], "--minutes is for a URL"),
        (["nano", "--max-tokens", "2000"], "--max-tokens is for a URL"),
        (["nano", "--served", "x"], "--served is for a URL"),
        (["http://127.0.0.1:1", "--against", "x.npz"], "--against is for a folder"),
        (["http://127.0.0.1:1", "--layers", "2"], "--layers is for a folder"),
        (["http://127.0.0.1:1", "--only", "speed"], "no probe 'speed'"),
    ],
)
def test_options_that_do_not_fit(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", *arguments]) == 2
    assert said in capsys.readouterr().err


def test_nobody_is_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "http://127.0.0.1:1"]) == 8
    assert "no answer from" in capsys.readouterr().err


def test_speculation_off_is_json_or_a_url(capsys: pytest.CaptureFixture[str]) -> None:
    with running(Upstream()) as url:
        options = ["verify", url, "--only", "speculation", "--speculation-off"]
        assert main([*options, "off"]) == 2
        assert "no JSON object" in capsys.readouterr().err
        assert main([*options, url]) == 0
        assert "speculation: 1.00" in capsys.readouterr().out


def test_an_interrupted_run_tells_what_it_knows() -> None:
    upstream = Upstream()
    with running(upstream) as url:
        budget = Budget(60, 100_000, lambda: upstream.requests >= 18)
        service = Service(url + "/v1", "fake", budget)
        report = verify_url(service, chosen(["usage", "repeats", "load"]))
    assert [check.name for check in report.checks] == ["usage"]
    assert {one.why for one in report.skipped} == {"interrupted"}


def test_a_server_that_goes_away_is_a_finding() -> None:
    with running(Upstream()) as url:
        service = Service(url + "/v1", "fake", Budget(60, 100_000))
        service.meet()
    service.client._first_pause = 0.01
    service.meet = lambda: None  # type: ignore[method-assign, assignment, return-value]
    (finding,) = verify_url(service, chosen(["usage"])).findings
    assert "no answer" in finding.what and finding.severity == "error"
