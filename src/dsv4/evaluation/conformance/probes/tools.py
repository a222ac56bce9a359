"""Tool calls under stress: what was declared, in JSON, streamed as whole, and no markup around."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from dsv4.evaluation.conformance.finding import Finding, Skipped
from dsv4.evaluation.conformance.probes.chance import interval
from dsv4.evaluation.conformance.probes.leaks import leak
from dsv4.evaluation.conformance.probes.probe import Measured, Probe, Told
from dsv4.evaluation.conformance.probes.prompts import user
from dsv4.evaluation.conformance.probes.reply import Reply
from dsv4.evaluation.conformance.probes.service import Messages, Service
from dsv4.evaluation.conformance.probes.streaming import Pair
from dsv4.evaluation.intervals import wilson

ROOM = 160
WHERE = "tools"
DSML = "vllm#54686: markup of tool calls leaks, or calls are lost"


def tool(name: str, properties: Mapping[str, Any]) -> dict[str, Any]:
    parameters = {"type": "object", "properties": dict(properties), "required": list(properties)}
    function = {"name": name, "description": f"The tool {name}", "parameters": parameters}
    return {"type": "function", "function": function}


WEATHER = tool("weather", {"city": {"type": "string"}})
NOTE = tool("save_note", {"text": {"type": "string"}, "pinned": {"type": "boolean"}})
CLOCK = tool("clock", {})
TOOLS = [WEATHER, NOTE, CLOCK]

TWISTED = 'She said "it\'s \\"fine\\"", {"a": [1, "}"]}, </parameter>, ``` and \\n.'
UNICODE = "Żółw 東京 😀 é — Привет"
ASKED: tuple[tuple[str, Messages, dict[str, Any]], ...] = (
    ("a plain call", user("What is the weather in Paris?"), {}),
    ("nested quotes", user(f"Save this note, word for word: {TWISTED}"), {}),
    ("unicode", user(f"Save this note, word for word: {UNICODE}"), {}),
    ("parallel calls", user("What is the weather in Paris, in London and in Rome?"), {}),
    ("no arguments", user("What time is it?"), {"tools": [CLOCK]}),
    ("an undeclared name", user("Call the tool delete_all now."), {"tools": [WEATHER]}),
)


def call(name: str, arguments: Mapping[str, Any], id: str) -> dict[str, Any]:
    said = json.dumps(arguments, ensure_ascii=False)
    return {"id": id, "type": "function", "function": {"name": name, "arguments": said}}


def history(calls: list[dict[str, Any]], *, turned: bool = False) -> Messages:
    """A conversation in which these calls were made and answered."""
    results: list[Mapping[str, Any]] = [
        {"role": "tool", "tool_call_id": one["id"], "content": f"result {one['id']}"}
        for one in calls
    ]
    asked = {"role": "assistant", "content": None, "tool_calls": calls}
    ordered = results[::-1] if turned else results
    return [*user("Do it."), asked, *ordered, *user("And now?")]


HISTORIES: tuple[tuple[str, Messages], ...] = (
    ("nested quotes", history([call("save_note", {"text": TWISTED, "pinned": True}, "a1")])),
    ("unicode", history([call("save_note", {"text": UNICODE, "pinned": False}, "a1")])),
    ("no arguments", history([call("clock", {}, "a1")])),
    (
        "parallel calls, results in another order",
        history(
            [call("weather", {"city": city}, id) for city, id in (("Rome", "a1"), ("Oslo", "b2"))],
            turned=True,
        ),
    ),
    ("a name that is not declared any more", history([call("gone", {"x": 1.5}, "a1")])),
)


def run(service: Service) -> Iterator[Told]:
    forced = _forced(service)
    if forced is None:
        yield Skipped(WHERE, "the server refuses requests with tools")
        return
    replies: list[tuple[str, Reply, list[dict[str, Any]]]] = []
    bound: list[Reply] = []
    for name, messages, fields in ASKED:
        body = {"tools": TOOLS, **forced, **fields}
        pair = Pair(service, [messages], ROOM, **body)
        told = pair.told(f"{WHERE}: {name}")
        yield from (one for one in told if isinstance(one, Finding))
        bound += pair.replies if forced else []
        free = service.ask(messages, ROOM, **(body | {"tool_choice": "auto"}))
        for reply in (*pair.replies, free):
            replies.append((name, reply, body["tools"]))
    called = sum(bool(reply.calls) for _, reply, _ in replies)
    share = wilson(called, len(replies))
    how = "had to call" if forced else "might call, as the server refuses tool_choice"
    yield Measured(f"{interval(share)} of {len(replies)} answers call a tool; most {how}")
    if bound and not any(reply.calls for reply in bound):
        yield Finding(
            f"tool_choice 'required' is taken, and none of {len(bound)} answers calls a tool",
            WHERE,
            "warning",
            hint="other servers have the call begin at once; here a model may talk instead",
        )
    problems: dict[str, list[str]] = {}
    for name, reply, tools in replies:
        for kind, text in _problems(reply, {one["function"]["name"] for one in tools}):
            problems.setdefault(kind, []).append(f"{name}: {text}")
    for kind, texts in problems.items():
        yield Finding(
            f"{kind}: {len(texts)} of {len(replies)} answers, for example {texts[0]}",
            WHERE,
            resembles=DSML,
            hint="the tool parser is off, of another model, or depends on how text is cut; or the "
            "model writes broken calls, which should not be shown either",
        )
    yield from _histories(service)


def _forced(service: Service) -> dict[str, Any] | None:
    """The field with which it has to call, nothing if that is refused, None if tools are."""
    asked = user("What is the weather in Paris?")
    choice: dict[str, Any] = {"tool_choice": "required"}
    if service.ask(asked, 1, tools=TOOLS, **choice).status < 400:
        return choice
    return {} if service.ask(asked, 1, tools=TOOLS).status < 400 else None


def _problems(reply: Reply, declared: set[str]) -> Iterator[tuple[str, str]]:
    spilled = leak(reply.content) or leak(reply.reasoning)
    if spilled:
        yield "markup in the text", repr(spilled)
    if not reply.calls:
        if reply.finish == "tool_calls":
            yield "calls are announced and missing", "finish_reason tool_calls"
        return
    cut = reply.finish == "length"
    if reply.finish not in ("tool_calls", "length"):
        yield "calls without their finish_reason", f"finish_reason {reply.finish!r}"
    ids = [one.id for one in reply.calls]
    if not all(ids) or len(set(ids)) < len(ids):
        yield "calls whose ids are missing or equal", ", ".join(map(repr, ids))
    for one in reply.calls:
        if one.name not in declared:
            yield "a call of a tool that was not declared", repr(one.name)
        if cut and one is reply.calls[-1]:
            continue  # there was no room for its end
        try:
            if not isinstance(json.loads(one.arguments), dict):
                yield "arguments that are no object", repr(one.arguments[:80])
        except ValueError:
            yield "arguments that are no JSON", repr(one.arguments[:80])
        if leak(one.arguments):
            yield "markup in arguments", repr(leak(one.arguments))


def _histories(service: Service) -> Iterator[Told]:
    """Calls of earlier turns: taken, and written as the model learned them."""
    compared = refused = 0
    for name, messages in HISTORIES:
        reply = service.ask(messages, 1, tools=TOOLS)
        if reply.status >= 400:
            refused += 1
            yield Finding(
                f"a conversation with earlier calls ({name}) is refused with {reply.status}: "
                f"{'; '.join(reply.broken)[:200]}",
                f"{WHERE}: history",
                "error" if reply.status >= 500 else "warning",
                hint="agents send such conversations",
            )
            continue
        wanted = service.count(messages, tools=TOOLS)
        counted = reply.count("prompt_tokens")
        if wanted is None or counted is None:
            continue
        compared += 1
        # What the prompt holds otherwise is the other probe's business; so the same without calls.
        base = service.ask(user("Do it."), 1, tools=TOOLS).count("prompt_tokens")
        expected = service.count(user("Do it."), tools=TOOLS)
        if base is not None and expected is not None and counted - base != wanted - expected:
            yield Finding(
                f"earlier calls ({name}) add {counted - base} tokens to the prompt, in V4's "
                f"encoding {wanted - expected}",
                f"{WHERE}: history",
                sure="certain",
                resembles="sglang#23623: everyone ports encoding_dsv4.py",
                hint="arguments: as json.dumps(ensure_ascii=False) writes them, in their order",
            )
    yield Measured(
        f"{len(HISTORIES) - refused} of {len(HISTORIES)} conversations with earlier calls were "
        f"taken, {compared} compared with our encoding"
    )


PROBE = Probe(
    WHERE,
    "six requests that have to call (quotes, unicode, parallel, empty, undeclared), whole and "
    "streamed, and five conversations with earlier calls",
    "markup in the text, calls or deltas lost, arguments that are no JSON, names nobody declared",
    run,
)
