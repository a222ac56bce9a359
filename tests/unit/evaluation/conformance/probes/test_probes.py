"""Probes against a server without a model: a sound one has no finding, a fault is named by the
probe that is there for it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.upstream import Upstream, running

from dsv4.encoding.chat import render
from dsv4.encoding.messages import fold_for_template
from dsv4.encoding.tokenizer import Tokenizer
from dsv4.evaluation.conformance.finding import Report
from dsv4.evaluation.conformance.probes.budget import Budget
from dsv4.evaluation.conformance.probes.catalogue import PROBES, chosen
from dsv4.evaluation.conformance.probes.run import verify_url
from dsv4.evaluation.conformance.probes.service import Service, find

DOCS = Path(__file__).parents[5] / "docs" / "verify.md"


def probed(
    upstream: Upstream,
    *names: str,
    tokens: int = 400_000,
    tokenizer: Tokenizer | None = None,
    without: Mapping[str, Any] | None = None,
) -> Report:
    with running(upstream) as url:
        base, model, context = find(url, None, None)
        budget = Budget(60, tokens)
        service = Service(base, model, budget, tokenizer=tokenizer, context=context)
        if without is not None:
            service.without_speculation = lambda messages, answer: service.ask(
                messages, answer, **without
            )
        return verify_url(service, chosen(names))


def test_a_sound_server_has_no_finding() -> None:
    report = probed(Upstream(context=4000), without={"fields_of": "no speculation"})
    assert report.findings == []
    assert [check.name for check in report.checks] == [probe.name for probe in PROBES]
    assert "4,096" not in str(report.checks) and "2,048 tokens, at the beg" in str(report.checks)


FAULTS = [
    ("counts one more", "encoding", "encoding", "every prompt has +1 tokens"),
    ("hidden text", "encoding", "encoding", "every prompt has +7 tokens"),
    ("typed markers", "encoding", "encoding", "becomes control tokens"),
    ("other tools", "encoding", "encoding", "prompts with tools are written otherwise"),
    ("other vocabulary", "encoding", "encoding", "cut into other tokens"),
    ("drops a tool delta", "tools", "tools", "arguments that are no JSON"),
    ("leaks markup", "tools", "tools", "markup in the text"),
    ("leaks markup", "tools,markup", "markup", "hold control tokens or markup"),
    ("drops a word", "streaming", "streaming", "streamed answer is not the one given whole"),
    ("no end of stream", "streaming", "streaming", "without [DONE]"),
    ("3 mod 4", "lengths", "lengths: 3 mod 4", "answered worse"),
    ("127 mod 128", "lengths", "lengths: 127 mod 128", "answered worse"),
    ("from 512 on", "lengths", "lengths: 512", "found less often"),
    ("answers depend on load", "load", "8 requests at a time", "depend on load"),
    ("temperature 0 is random", "repeats", "the same request again", "not deterministic"),
    ("sums wrongly", "usage", "usage", "is not total_tokens"),
    ("ignores max_tokens", "usage", "usage", "max_tokens is not kept"),
    ("answers mistakes", "refusals", "refusals", "no messages is answered with 200"),
    ("refuses with 500", "refusals", "refusals", "its own failure"),
    ("cuts long prompts", "refusals", "refusals", "longer than the context"),
    ("mixes cached answers", "cache", "another question", "worse than the first"),
    ("mixes cached answers", "cache", "another question", "another one than cold"),
    ("thinking in the content", "thinking", "thinking", "<think>"),
    ("speculation changes answers", "speculation", "speculation", "changes answers"),
    ("does not cancel", "cancellation", "cancellation", "as if they ran"),
]


@pytest.mark.parametrize(("fault", "names", "where", "what"), FAULTS)
def test_a_fault_is_found_and_named(
    fault: str, names: str, where: str, what: str, tiny_folder: Path
) -> None:
    tokenizer, count = None, None
    if names == "encoding":
        tokenizer = Tokenizer.from_folder(tiny_folder)
        count = counting(tokenizer, fault)
    slow = fault == "does not cancel"
    upstream = Upstream(
        fault,
        count=count,
        context=900 if names == "lengths" else 4000,
        delay=0.005 if slow else 0,
    )
    off = {"fields_of": "no speculation"}
    report = probed(upstream, *names.split(","), tokenizer=tokenizer, without=off)
    found = [one for one in report.findings if where in one.where and what in one.what]
    assert found, report.findings
    assert found[0].severity == "error" and not report.passed


def counting(tokenizer: Tokenizer, fault: str) -> Any:
    """Tokens of a prompt as V4 writes it, or as a port does that is a little wrong."""

    def count(body: Mapping[str, Any]) -> int:
        messages, tools = body["messages"], body.get("tools")
        prompt = render(fold_for_template(messages), thinking=False, tools=tools)
        ids = len(tokenizer.encode_prompt(prompt))
        if fault == "hidden text":
            return ids + 7
        if fault == "typed markers":
            return ids - sum(
                len(marker.encode()) - 1
                for message in messages
                for marker in ("<｜User｜>", "<think>")
                for _ in range((message.get("content") or "").count(marker))
            )
        if fault == "other tools" and tools:
            return ids + 3
        return ids * 9 // 10 if fault == "other vocabulary" else ids

    return count


def test_an_encoding_that_is_ours_has_no_finding(tiny_folder: Path) -> None:
    tokenizer = Tokenizer.from_folder(tiny_folder)
    upstream = Upstream(count=counting(tokenizer, ""))
    report = probed(upstream, "encoding", "tools", tokenizer=tokenizer)
    assert report.findings == []
    assert "12 of 12 prompts have as many tokens" in report.checks[0].what


def test_dropped_streams_that_stop_are_no_finding() -> None:
    report = probed(Upstream(delay=0.005), "cancellation")
    assert report.findings == [] and report.skipped == []


def test_loops_behind_long_texts_are_a_note() -> None:
    report = probed(Upstream("loops"), "decay")
    (note,) = report.findings
    assert note.severity == "note" and "end in loops" in note.what and report.passed


def test_what_is_not_looked_at_is_told() -> None:
    report = probed(Upstream(context=4000), tokens=3000)
    names = [one.name for one in report.skipped]
    assert any("lengths" in name for name in names) and "cache: all" in names
    assert all("--max-tokens" in one.why for one in report.skipped if "cache" in one.name)
    assert report.passed


def test_a_budget_is_kept() -> None:
    upstream = Upstream(context=4000)
    report = probed(upstream, "lengths", tokens=20_000)
    spent = sum(
        int(word.replace(",", "")) for word in report.facts["took"].split() if word[0].isdigit()
    )
    assert spent < 20_000 + upstream.requests


def test_the_manual_has_every_probe() -> None:
    text = DOCS.read_text(encoding="utf-8")
    table = text.partition("<!-- probes: begin -->\n")[2].partition("\n<!-- probes: end -->")[0]
    wanted = [f"| `{probe.name}` | {probe.about} | {probe.catches} |" for probe in PROBES]
    assert table.splitlines()[2:] == wanted
