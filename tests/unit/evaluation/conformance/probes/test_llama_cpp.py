"""Probes against the ways of llama.cpp's server."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.llama_cpp import LlamaCpp
from tests.upstream import Json, running

from dsv4.encoding.chat import render
from dsv4.encoding.control import BOS
from dsv4.encoding.messages import fold_for_template
from dsv4.encoding.tokenizer import Tokenizer
from dsv4.evaluation.conformance.finding import Report
from dsv4.evaluation.conformance.probes.budget import Budget
from dsv4.evaluation.conformance.probes.catalogue import chosen
from dsv4.evaluation.conformance.probes.run import verify_url
from dsv4.evaluation.conformance.probes.service import Service, find

NANO = Path(__file__).parents[5] / "models" / "nano"


@pytest.fixture
def tokenizer() -> Tokenizer:
    """One whose tokens are words, as the server's are."""
    return Tokenizer.from_folder(NANO)


def written(body: Mapping[str, Any]) -> str:
    messages, tools = body["messages"], body.get("tools")
    return render(fold_for_template(messages), thinking=False, tools=tools).text.removeprefix(BOS)


def of_its_template(body: Mapping[str, Any]) -> str:
    """llama.cpp's has no empty system text in front of the tools."""
    return written(body).removeprefix("\n\n")


def probed(
    names: str,
    tokenizer: Tokenizer,
    writes: Callable[[Json], str] = written,
    fault: str = "",
    delay: float = 0.0,
) -> tuple[Report, LlamaCpp]:
    def count(body: Mapping[str, Any]) -> int:
        tools = body.get("tools")
        prompt = render(fold_for_template(body["messages"]), thinking=False, tools=tools)
        shorter = len(writes(dict(body))) < len(written(body))
        told = 74 if body.get("reasoning_effort") == "max" else 0
        return len(tokenizer.encode_prompt(prompt)) - shorter + told

    upstream = LlamaCpp(fault, count=count, context=4000, written=writes, delay=delay)
    with running(upstream) as url:
        base, model, context = find(url, None, None)
        service = Service(base, model, Budget(60, 400_000), tokenizer=tokenizer, context=context)
        return verify_url(service, chosen(names.split(","))), upstream


def test_a_sound_one_has_no_finding(tokenizer: Tokenizer) -> None:
    report, upstream = probed("encoding,usage,thinking,tools,cache,markup", tokenizer)
    assert report.findings == []
    checks = {check.name: check.what for check in report.checks}
    # /tokenize has no tokens for messages: that says nothing about them.
    assert "12 of 12 prompts have the same text under /apply-template" in checks["encoding"]
    assert "ids" not in checks["encoding"]
    assert "another question about a cached text: 1.00" in checks["cache"]
    assert "cold" not in str(report.skipped)
    assert any(body.get("cache_prompt") is False for body in upstream.asked)


def test_another_template_is_told_with_its_place(tokenizer: Tokenizer) -> None:
    report, _ = probed("encoding", tokenizer, of_its_template)
    (finding,) = report.findings
    assert finding.what.startswith("prompts with tools are written otherwise")
    assert r"'## Tools\n\nYou have acces' where V4 has '\n\n## Tools" in finding.what
    assert "tools and system" not in finding.what


def test_another_text_of_as_many_tokens_is_told(tokenizer: Tokenizer) -> None:
    report, _ = probed("encoding", tokenizer, lambda body: written(body).replace("Hi!", "Ho!"))
    (finding,) = report.findings
    assert finding.what.startswith("as many tokens, another text: three turns")
    assert "Ho!" in finding.what and finding.where == "encoding: /apply-template"


def test_running_requests_are_seen(tokenizer: Tokenizer) -> None:
    report, _ = probed("cancellation", tokenizer, delay=0.005)
    assert report.findings == [] and report.skipped == []
    assert "0 requests still run" in report.checks[0].what


def test_talk_instead_of_a_required_call(tokenizer: Tokenizer) -> None:
    report, _ = probed("tools", tokenizer, fault="talks where it has to call")
    (finding,) = report.findings
    assert finding.severity == "warning"
    assert finding.what.endswith("none of 12 answers calls a tool")


def test_shown_markers_are_not_counted_as_text(tokenizer: Tokenizer) -> None:
    """`</think>` is one token to the server, several to us."""
    report, _ = probed("usage,thinking", tokenizer, fault="thinking in the content")
    assert {finding.where for finding in report.findings} == {"thinking"}
