"""Does the server write prompts as V4 was trained on? Its prompt_tokens against our encoder."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from dsv4.encoding.control import ASSISTANT, BOS, DSML, EOS, THINK_OPEN, USER
from dsv4.errors import RequestError
from dsv4.evaluation.conformance.finding import Finding, Skipped
from dsv4.evaluation.conformance.probes.agreement import parting
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


@dataclass(frozen=True, slots=True)
class _Count:
    """Tokens of a case's prompt: `counted` by the server, `wanted` by our encoder. `place`: where
    its text parts from ours, if the server shows it and it does."""

    case: _Case
    counted: int
    wanted: int
    place: str = ""

    @property
    def gap(self) -> int:
        return self.counted - self.wanted

    def __str__(self) -> str:
        where = f" ({self.place})" if self.place else ""
        return f"{self.case.name} {self.counted} for {self.wanted}{where}"


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
    places = _places(service)
    off: list[_Count] = []
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
            off.append(_Count(case, counted, wanted, (places or {}).get(case.name, "")))
    same = sum(not one.gap for one in off)
    yield Measured(f"{same} of {len(off)} prompts have as many tokens as our encoder writes")
    yield from _explained(off)
    if places is None:
        yield from _ids(service)
        return
    yield Measured(
        f"{len(CASES) - len(places)} of {len(CASES)} prompts have the same text under "
        "/apply-template"
    )
    for one in off:
        if one.place and not one.gap:
            yield Finding(
                f"as many tokens, another text: {one}", f"{WHERE}: /apply-template", resembles=PORTS
            )


def _places(service: Service) -> dict[str, str] | None:
    """Cases whose text the server writes otherwise, with the first place where it does; None if
    it does not show its prompts."""
    if not service.plain:
        return None  # whether a prompt ends in <think> is not known
    found = {}
    for case in CASES:
        theirs = service.rendered(case.messages, **case.fields)
        if theirs is None:
            return None
        # Its tokenizer may write the beginning of sequence.
        ours = service.written(case.messages, **case.fields).removeprefix(BOS)
        theirs = theirs.removeprefix(BOS)
        if theirs != ours:
            at = parting(theirs, ours)
            pieces = [repr(text[max(0, at - 12) : at + 24]) for text in (theirs, ours)]
            found[case.name] = f"{pieces[0]} where V4 has {pieces[1]}"
    return found


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


def _explained(off: list[_Count]) -> Iterator[Told]:
    """Differences as one finding each: of all prompts, of one kind, or of single ones."""
    gaps = {one.gap for one in off}
    if gaps == {0}:
        return
    shown = "; ".join(map(str, off))
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
    kinds: dict[str, list[_Count]] = {}
    for one in off:
        kinds.setdefault(one.case.group, []).append(one)
    plain = {one.gap for one in kinds["user"]} if "user" in kinds else {0}
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
        different = [one for one in members if one.gap != usual]
        if different:
            yield Finding(
                f"prompts with {group} are written otherwise than V4's encoding: "
                + "; ".join(map(str, different)),
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
    "prompt_tokens of twelve prompts (and their ids or texts, where /tokenize or /apply-template "
    "shows them) against the exact encoding; control tokens typed by a user",
    "BOS twice, hidden system texts, other templates of tools or turns, another tokenizer, "
    "markers in a user's text that become control tokens",
    run,
)
