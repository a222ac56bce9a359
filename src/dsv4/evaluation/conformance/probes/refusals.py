"""Requests that cannot be right: are they refused, in words that programs understand?"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from dsv4.errors import RequestError
from dsv4.evaluation.client import Response
from dsv4.evaluation.conformance.finding import Finding, Severity, Skipped
from dsv4.evaluation.conformance.probes.probe import Measured, Probe, Told
from dsv4.evaluation.conformance.probes.prompts import user
from dsv4.evaluation.conformance.probes.service import CHAT, Service

HELLO = user("Hello")


@dataclass(frozen=True, slots=True)
class _Wrong:
    """A mistake, as changes of a sound body (None: the field is left out), and how bad it is if
    nobody minds."""

    name: str
    change: Mapping[str, Any]
    severity: Severity = "error"


MISTAKES = (
    _Wrong("a model that is not served", {"model": "no-such-model-7431"}, "warning"),
    _Wrong("no messages", {"messages": None}),
    _Wrong("an empty list of messages", {"messages": []}),
    _Wrong("messages that are a text", {"messages": "Hello"}),
    _Wrong("an unknown role", {"messages": [{"role": "wizard", "content": "Hello"}]}),
    _Wrong("a negative temperature", {"temperature": -1}, "warning"),
    _Wrong("a temperature that is a text", {"temperature": "warm"}, "warning"),
    _Wrong("top_p above 1", {"top_p": 2}, "warning"),
    _Wrong("max_tokens that is a text", {"max_tokens": "many"}, "warning"),
)


def run(service: Service) -> Iterator[Told]:
    refused = 0
    for wrong in MISTAKES:
        body = {**service.body(HELLO, 1), **wrong.change}
        body = {key: value for key, value in body.items() if value is not None}
        service.budget.take(8, 1)
        findings = list(_asked(service, wrong.name, json.dumps(body).encode(), wrong.severity))
        refused += not findings
        yield from findings
    service.budget.take(8, 1)
    half = json.dumps(service.body(HELLO, 1)).encode()[:-3]
    findings = list(_asked(service, "JSON that ends too early", half, "error"))
    refused += not findings
    yield from findings
    yield Measured(f"{refused} of {len(MISTAKES) + 1} mistakes were refused as they should be")
    yield from _too_long(service)


def _asked(service: Service, name: str, data: bytes, severity: Severity) -> Iterator[Told]:
    try:
        response = service.strict.send(CHAT, data)
    except RequestError as error:
        yield Finding(
            f"{name}: {error}", "refusals", hint="an error needs a status and a JSON object"
        )
        return
    if response.status < 400:
        yield Finding(
            f"{name} is answered with {response.status}; 400, 404 or 422 would be right",
            "refusals",
            severity,
            hint="clients take what they get for the answer to what they meant",
        )
    elif response.status >= 500:
        yield Finding(
            f"{name} is answered with {response.status}: the server calls it its own failure",
            "refusals",
            hint="clients send the request again, and it fails again",
        )
    elif not _explains(response):
        yield Finding(
            f"{name} is refused without an error object that has a message: "
            f"{json.dumps(response.body)[:120]}",
            "refusals",
            "warning",
            hint='{"error": {"message": ...}} is what clients show',
        )


def _explains(response: Response) -> bool:
    error = response.body.get("error")
    if isinstance(error, dict):
        return bool(error.get("message"))
    # As vLLM had it for a while: the error is the body.
    return bool(error) or bool(response.body.get("message"))


def _too_long(service: Service) -> Iterator[Told]:
    """More than the context holds. It costs nothing if it is refused; so it is sent only if there
    is room for it in the budget should it not be."""
    name = "a prompt that is longer than the context"
    if service.context is None:
        yield Skipped(name, "the server does not tell how long its context is")
        return
    count = service.context + 64
    if count > service.budget.left_tokens // 2:
        yield Skipped(name, f"{count:,} tokens do not fit into --max-tokens, were they computed")
        return
    service.budget.take(0, 1)
    messages = user("so " * count)
    body = service.body(messages, 1)
    try:
        response = service.strict.post(CHAT, body)
    except RequestError as error:
        yield Finding(f"{name}: {error}", "refusals")
        return
    if response.status < 400:
        usage = response.body.get("usage")
        read = usage.get("prompt_tokens") if isinstance(usage, dict) else None
        service.budget.correct((0, 1), read if isinstance(read, int) else 0, 1)
        yield Finding(
            f"{name} ({count:,} tokens where {service.context:,} fit) is answered with "
            f"{response.status}; {read} tokens were read",
            "refusals",
            hint="what was cut off silently is missing from the answer",
        )
    elif response.status >= 500:
        yield Finding(f"{name} is answered with {response.status}", "refusals")
    else:
        yield Measured(f"{name} ({count:,} tokens) is refused with {response.status}")


PROBE = Probe(
    "refusals",
    "ten requests that cannot be right, and a prompt longer than the context",
    "mistakes that are answered with 200 or 5xx, prompts cut silently, errors without a message",
    run,
)
