"""Does the server write prompts as V4 was trained on? Its prompt_tokens against our encoder."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from dsv4.encoding.control import ASSISTANT, DSML, EOS, THINK_OPEN, USER
from dsv4.errors import RequestError
from dsv4.evaluation.conformance.finding import Finding, Skipped
from dsv4.evaluation.conformance.probes.probe import Measured, Probe, Told
from dsv4.evaluation.conformance.probes.prompts import user
from dsv4.evaluation.conformance.probes.service import Messages, Service
from dsv4.evaluation.conformance.probes.tools import TOOLS

WHERE = "encoding"
MARKERS = (EOS, USER, ASSISTANT, THINK_OPEN, DSML)
REPEATS = 8
SYSTEM = {"role": "system", "content": "You are a helpful assistant."}
PORTS = "sglang#23623: no template ships, everyone ports encoding_dsv4.py"


@dataclass(frozen=True, slots=True)
class _Case:
    """A prompt; `group`: what is peculiar to it."""

    name: str
    group: str
    messages: Messages
    fields: Mapping[str, Any] = field(default_factory=dict)


def _said(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


CASES = (
    _Case("one word", "user", user("Hello")),
    _Case("a sentence", "user", user("What is a lighthouse?")),
    _Case("white space", "user", user("  two\n\n\n   spaces \t and tabs  ")),
    _Case("digits", "user", user("3.14159 1234567890 2024-08-13")),
    _Case("unicode", "user", user("Żółw 東京 😀👩‍🚀 é Привет ﷺ 한국어")),
    _Case("code", "user", user("def f(x):\n    return {'a': [x, *x]}  # \"quoted\"\n")),
    _Case("nothing", "user", user("")),
    _Case("a long text", "user", user("The wind was cold and the road was long. " * 40)),
    _Case("a system message", "system", [SYSTEM, *user("Hello")]),
    _Case(
        "three turns",
        "turns",
        [*user("Hello"), _said("Hi!"), *user("How are you?"), _said("Well."), *user("Good.")],
    ),
    _Case("tools", "tools", user("What is the weather in Paris?"), {"tools": TOOLS}),
    _Case("tools and system", "tools", [SYSTEM, *user("Hello")], {"tools": TOOLS[:1]}),
)


def run(service: Service) -> Iterator[Told]:
    yield from _markers(service)
    if service.tokenizer is None:
        yield Skipped(
            "prompt tokens against our encoder",
            "no vocabulary is known for this model: --tokenizer FOLDER",
        )
        return
    off: list[tuple[_Case, int, int]] = []
    for case in CASES:
        reply = service.ask(case.messages, 1, **case.fields)
        counted, wanted = reply.count("prompt_tokens"), service.count(case.messages, **case.fields)
        if reply.status >= 400:
            yield Finding(
                f"{case.name}: refused with {reply.status}: {'; '.join(reply.broken)[:200]}",
                WHERE,
                "warning",
            )
        elif counted is None or wanted is None:
            yield Skipped("prompt tokens against our encoder", "the server sends no prompt_tokens")
            return
        else:
            off.append((case, counted, wanted))
    same = sum(counted == wanted for _, counted, wanted in off)
    yield Measured(f"{same} of {len(off)} prompts have as many tokens as our encoder writes")
    yield from _explained(off)
    yield from _ids(service)


def _markers(service: Service) -> Iterator[Told]:
    """Control tokens that a user types: needs no vocabulary, as each has several ordinary tokens
    and is one if it became a control token."""
    empty = service.ask(user("x " * REPEATS), 1).count("prompt_tokens")
    if empty is None:
        yield Skipped("markers in a user's text", "the server sends no prompt_tokens")
        return
    taken = []
    for marker in MARKERS:
        filled = service.ask(user(f"x{marker} " * REPEATS), 1).count("prompt_tokens")
        if filled is not None and filled - empty <= REPEATS:
            taken.append(marker)
    yield Measured(f"{len(MARKERS) - len(taken)} of {len(MARKERS)} typed markers stay text")
    if taken:
        yield Finding(
            f"what a user types becomes control tokens: {', '.join(taken)} is one token each",
            WHERE,
            sure="likely",
            resembles="prompt injection: a text can end its turn and begin another",
            hint="encode content without special tokens; only the template may write them",
        )


def _explained(off: list[tuple[_Case, int, int]]) -> Iterator[Told]:
    """Differences as one finding each: of all prompts, of one kind, or of single ones."""
    gaps = {counted - wanted for _, counted, wanted in off}
    if gaps == {0}:
        return
    shown = "; ".join(f"{c.name} {counted} for {wanted}" for c, counted, wanted in off)
    if len(gaps) == 1:
        (gap,) = gaps
        yield Finding(
            f"every prompt has {gap:+d} tokens compared with V4's encoding: {shown[:300]}",
            WHERE,
            resembles="a second or missing beginning of sequence"
            if abs(gap) == 1
            else "a hidden system text"
            if gap > 0
            else PORTS,
            hint="a renderer and a tokenizer that both write BOS, or a text nobody asked for",
        )
        return
    kinds: dict[str, list[tuple[_Case, int, int]]] = {}
    for one in off:
        kinds.setdefault(one[0].group, []).append(one)
    plain = {counted - wanted for _, counted, wanted in kinds["user"]} if "user" in kinds else {0}
    usual = min(plain, key=abs)
    if len(plain) > 1:
        yield Finding(
            "texts are cut into other tokens than V4's vocabulary does: " + shown[:300],
            WHERE,
            sure="likely",
            resembles="another tokenizer, or another pre-tokenizer",
            hint="is --tokenizer the vocabulary of this model?",
        )
        return
    for group, members in kinds.items():
        different = [(c, n, w) for c, n, w in members if n - w != usual]
        if different:
            what = "; ".join(f"{c.name} {n} for {w}" for c, n, w in different)
            yield Finding(
                f"prompts with {group} are written otherwise than V4's encoding: {what}",
                WHERE,
                resembles=PORTS,
                hint="wording, order or spacing: dsv4.encoding writes the exact template",
            )
    if usual:
        yield Finding(f"prompts of a user alone have {usual:+d} tokens", WHERE, resembles=PORTS)


def _ids(service: Service) -> Iterator[Told]:
    """Where the server shows its tokens (as vLLM does), all of them."""
    if not service.plain:
        return  # whether a prompt ends in <think> is not known
    equal, cases = 0, [case for case in CASES if not case.fields]
    for case in cases:
        body = service.body(case.messages, 1)
        try:
            response = service.root.post("tokenize", body)
        except RequestError:
            return
        found, wanted = response.body.get("tokens"), service.ids(case.messages) or []
        if response.status >= 400 or not isinstance(found, list):
            return
        equal += found == wanted
        if found != wanted and len(found) == len(wanted):
            at = next(i for i, (a, b) in enumerate(zip(found, wanted, strict=True)) if a != b)
            yield Finding(
                f"{case.name}: as many tokens, others from number {at} on: "
                f"{json.dumps(found[at : at + 5])} for {wanted[at : at + 5]}",
                f"{WHERE}: /tokenize",
                resembles=PORTS,
            )
    yield Measured(f"{equal} of {len(cases)} prompts have the same ids under /tokenize")


PROBE = Probe(
    WHERE,
    "prompt_tokens of twelve prompts (and their ids, where /tokenize shows them) against the exact "
    "encoding; control tokens typed by a user",
    "BOS twice, hidden system texts, other templates of tools or turns, another tokenizer, "
    "markers in a user's text that become control tokens",
    run,
)
