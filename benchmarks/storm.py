"""A storm of requests on a server, and what must be true after it: see benchmarks/load.py.

The client is a few lines over asyncio's streams, so that it can do what well-behaved ones do not:
stop in the middle of a body, leave at any moment, read slowly. It connects to 127.0.0.1 alone.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import statistics
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

HOST = "127.0.0.1"
PATIENCE = 120.0
"""Seconds without a byte after which a request counts as never answered."""
MOST_RETRIES = 60
VOLATILE = frozenset(
    "id created created_at completed_at call_id item_id usage sequence_number signature".split()
)
"""Fields that differ between two answers to the same request."""
SILENT = frozenset({"ping", "response.in_progress"})
"""Events that say that nothing can be said."""

CITY = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 8}, "days": {"type": "integer"}},
    "required": ["city"],
}
FORMATS: tuple[dict[str, Any], ...] = (
    {"type": "json_object"},
    {"type": "json_schema", "json_schema": {"name": "place", "schema": CITY}},
    {"type": "regex", "regex": "[a-f]{3,9}"},
)
MALFORMED: tuple[bytes, ...] = (
    b"",
    b"{",
    b"[]",
    b'{"model": 5}',
    b'{"model": "nobody", "messages": [], "input": "", "prompt": "", "max_tokens": 1}',
    b"[" * 100_000,
    b'{"model": "claude", "max_tokens": -1, "messages": "no", "prompt": 7, "input": 7}',
    b"\xff\xfe\x00",
)
FATES = {
    "whole": 60,
    "slow": 8,
    "leaves before headers": 8,
    "leaves midway": 10,
    "half a body": 7,
    "malformed": 7,
}
"""What becomes of requests, and of how many in a hundred."""


@dataclass(frozen=True, slots=True)
class Ask:
    """One request. `body` is sent as it is."""

    path: str
    body: bytes
    stream: bool = False


class Exchange:
    """One request and its response, on a connection of its own."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.status = 0
        self.headers: dict[str, str] = {}

    async def __aenter__(self) -> Exchange:
        self._reader, self._writer = await asyncio.open_connection(HOST, self._port)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.transport.abort()

    async def send(self, ask: Ask, length: int | None = None) -> None:
        """The request, or its head and only `length` bytes of the body."""
        method = "POST" if ask.body or ask.path.startswith("/v1/") else "GET"
        head = (
            f"{method} {ask.path} HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(ask.body)}\r\n\r\n"
        )
        self._writer.write(head.encode() + ask.body[:length])
        await self._writer.drain()

    async def receive(self) -> None:
        """The head of the response."""
        line = await self._line()
        if not line:
            raise ConnectionError("no response")
        self.status = int(line.split()[1])
        while line := (await self._line()).strip():
            name, _, value = line.decode().partition(":")
            self.headers[name.lower()] = value.strip()

    async def parts(self) -> AsyncIterator[bytes]:
        """The body as it comes."""
        if "content-length" in self.headers:
            yield await self._exactly(int(self.headers["content-length"]))
            return
        while size := int(await self._line(), 16):
            yield (await self._exactly(size + 2))[:-2]
        await self._line()

    async def events(self) -> AsyncIterator[str]:
        """The lines of a stream that hold data."""
        rest = b""
        async for part in self.parts():
            *lines, rest = (rest + part).split(b"\n")
            for line in lines:
                if line.startswith(b"data: "):
                    yield line.removeprefix(b"data: ").decode()

    async def _line(self) -> bytes:
        return await asyncio.wait_for(self._reader.readline(), PATIENCE)

    async def _exactly(self, count: int) -> bytes:
        return await asyncio.wait_for(self._reader.readexactly(count), PATIENCE)


async def get(port: int, path: str) -> bytes:
    async with Exchange(port) as exchange:
        await exchange.send(Ask(path, b""))
        await exchange.receive()
        body = b"".join([part async for part in exchange.parts()])
        if exchange.status != 200:
            raise ConnectionError(f"{path}: {exchange.status} {body!r:.200}")
        return body


def plain(value: Any) -> Any:
    """JSON without what differs between two answers to the same request."""
    if isinstance(value, dict):
        return {key: plain(v) for key, v in value.items() if key not in VOLATILE}
    if isinstance(value, list):
        return [plain(v) for v in value]
    return value


def says(event: Any) -> bool:
    """Whether an event of a stream, in any dialect, brings a piece of an answer."""
    if event.get("type", "").endswith(("_delta", ".delta")) and "usage" not in event:
        return True
    choices = event.get("choices") or [{}]
    delta = choices[0].get("delta") or {}
    told = (choices[0].get("text"), delta.get("content"), delta.get("reasoning_content"))
    return any(told) or "tool_calls" in delta


def counted(event: Any) -> int:
    """Tokens of an answer, where an event or a body reports them."""
    usage = event.get("usage") or (event.get("response") or {}).get("usage") or {}
    return int(usage.get("completion_tokens") or usage.get("output_tokens") or 0)


@dataclass(slots=True)
class Seen:
    """One answer: what it said, without what is different every time, and when."""

    outcome: str = ""
    said: list[Any] = field(default_factory=list)
    tokens: int = 0
    begun: float = 0.0
    times: list[float] = field(default_factory=list)
    retries: int = 0


async def ask(port: int, asked: Ask, fate: str, draw: random.Random) -> Seen:
    """Send a request and treat it as its fate is."""
    seen = Seen(begun=time.monotonic())
    try:
        while await _once(port, asked, fate, draw, seen):
            seen.retries += 1
            if seen.retries > MOST_RETRIES:
                seen.outcome = "refused for ever"
                break
    except TimeoutError:
        seen.outcome = "never answered"
    except (ConnectionError, asyncio.IncompleteReadError, ValueError) as error:
        seen.outcome = f"cut off: {type(error).__name__}"
    return seen


async def _once(port: int, asked: Ask, fate: str, draw: random.Random, seen: Seen) -> bool:
    """Whether it has to be sent again, as the server is full."""
    async with Exchange(port) as exchange:
        if fate == "half a body":
            await exchange.send(asked, len(asked.body) // 2)
            await asyncio.sleep(draw.uniform(0, 0.3))
            seen.outcome = "left"
            return False
        await exchange.send(asked)
        if fate == "leaves before headers":
            await asyncio.sleep(draw.choice([0, 0.01, 0.1, 0.5]))
            seen.outcome = "left"
            return False
        await exchange.receive()
        if exchange.status in (429, 503, 529):
            wait = int(exchange.headers["retry-after"])
            await asyncio.sleep(wait * draw.uniform(0.8, 1.2))
            return True
        if exchange.status != 200 or not asked.stream:
            body = b"".join([part async for part in exchange.parts()])
            value = json.loads(body)
            seen.said.append(plain(value))
            seen.outcome = "answered" if exchange.status == 200 else f"status {exchange.status}"
            if exchange.status == 200:
                seen.tokens = counted(value)
            return False
        await _read_stream(exchange, fate, draw, seen)
        return False


async def _read_stream(exchange: Exchange, fate: str, draw: random.Random, seen: Seen) -> None:
    leaves_after = draw.randrange(0, 12) if fate == "leaves midway" else None
    async for line in exchange.events():
        if line == "[DONE]":
            continue
        event = json.loads(line)
        if event.get("type") in SILENT:
            continue
        if says(event):
            seen.times.append(time.monotonic())
        seen.said.append(plain(event))
        seen.tokens = counted(event) or seen.tokens
        if leaves_after is not None and len(seen.said) > leaves_after:
            seen.outcome = "left"
            return
        if fate == "slow":
            await asyncio.sleep(0.03)
    failed = "error" in event or event.get("type") in ("error", "response.failed")
    seen.outcome = f"failed: {json.dumps(event)[:300]}" if failed else "answered"


def questions(draw: random.Random, count: int, *, model: str, context: int) -> list[Ask]:
    """Requests in every dialect; many begin alike, some carry tools, formats, long prompts."""
    words = "the lamp house keeper rowed past seven grey stones before dawn came".split()

    def text(length: int, seed: int) -> str:
        return " ".join(random.Random(seed).choices(words, k=max(1, length // 5)))

    shared = [text(length, seed) for seed, length in enumerate((150, 400, 900, context // 4))]
    return [_question(draw, i, model, shared, text(40, 1000 + i)) for i in range(count)]


def _question(draw: random.Random, i: int, model: str, shared: Sequence[str], own: str) -> Ask:
    stem = draw.choices(shared, weights=(5, 5, 3, 1))[0]
    path = ("chat/completions", "completions", "responses", "messages")[i % 4]
    stream = draw.random() < 0.7
    most = draw.randrange(4, 40)
    body: dict[str, Any] = {"model": model, "stream": stream}
    body |= {"temperature": 0} if draw.random() < 0.4 else {"temperature": 0.9, "seed": i}
    user = draw.choice(["", "ann", "bob", "cyd"])
    special = draw.random()
    function = {"name": "weather", "description": "The weather", "parameters": CITY}
    turns = [{"role": "user", "content": f"{stem} {own}"}]
    if path == "chat/completions":
        body |= {"messages": turns, "max_tokens": most, "thinking": {"type": "disabled"}}
        body |= {"user": user} if user else {}
        if special < 0.25:
            choice = draw.choice(["auto", "required"])
            body |= {"tools": [{"type": "function", "function": function}], "tool_choice": choice}
        elif special < 0.5:
            body["response_format"] = draw.choice(FORMATS)
        elif special < 0.7:
            body |= {"logprobs": True, "top_logprobs": 3}
        elif special < 0.8:
            body["thinking"] = {"type": "enabled"}
    elif path == "completions":
        body |= {"prompt": f"{stem} {own}", "max_tokens": most}
        body |= {"stop": ["e", "qq"]} if special < 0.3 else {}
    elif path == "responses":
        body |= {"input": f"{stem} {own}", "max_output_tokens": most}
        body |= {"tools": [{"type": "function", **function}]} if special < 0.3 else {}
    else:
        body |= {"messages": turns, "max_tokens": most, "metadata": {"user_id": user or "dee"}}
        if body.pop("seed", None) is not None:
            body["temperature"] = 0
        if special < 0.3:
            tool = {"name": "weather", "input_schema": CITY}
            body |= {"tools": [tool], "tool_choice": {"type": "any"}}
    return Ask(f"/v1/{path}", json.dumps(body).encode(), stream)


@dataclass(slots=True)
class Watch:
    """What was seen from outside while the storm went on. `lags`: seconds of GET /health."""

    lags: list[float] = field(default_factory=list)
    fullest: float = 0.0
    failures: list[str] = field(default_factory=list)

    async def look(self, port: int) -> None:
        """For ever, or until it is cancelled."""
        for turn in range(1_000_000):
            began = time.monotonic()
            try:
                await get(port, "/health")
                self.lags.append(time.monotonic() - began)
                if turn % 5 == 0:
                    for line in (await get(port, "/metrics")).decode().splitlines():
                        if line.startswith("vllm:kv_cache_usage_perc"):
                            self.fullest = max(self.fullest, float(line.split()[-1]))
                    await get(port, "/debug/integrity")
            except (ConnectionError, OSError, TimeoutError) as error:
                self.failures.append(str(error))
            await asyncio.sleep(0.05)


async def settled(port: int, seconds: float = 30.0) -> dict[str, Any]:
    """/debug/integrity once nothing is under way, or after so many seconds."""
    end = time.monotonic() + seconds
    while True:
        state: dict[str, Any] = json.loads(await get(port, "/debug/integrity"))
        if (state["idle"] and not state["jobs"]) or time.monotonic() > end:
            return state
        await asyncio.sleep(0.1)


async def counts(port: int, process: int | None) -> dict[str, int]:
    """What a process holds while nothing is under way."""
    await asyncio.sleep(0.5)
    held = {"tasks": (await settled(port))["tasks"]}
    if process is not None:
        held["files"] = len(os.listdir(f"/proc/{process}/fd"))
        status = Path(f"/proc/{process}/status").read_text()
        held |= {
            name: int(line.split()[1])
            for line in status.splitlines()
            for name, label in (("threads", "Threads:"), ("resident_kib", "VmRSS:"))
            if line.startswith(label)
        }
    return held


def quantiles(values: Sequence[float]) -> dict[str, float]:
    """In milliseconds."""
    if not values:
        return {}
    ordered = sorted(values)
    return {
        name: round(1000 * ordered[min(len(ordered) - 1, int(share * len(ordered)))], 1)
        for name, share in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("max", 1.0))
    }


async def storm(
    port: int,
    *,
    requests: int,
    at_once: int,
    model: str,
    context: int,
    process: int | None = None,
    seed: int = 1,
) -> dict[str, Any]:
    """Everything, and a summary; `problems` is empty if all was as it should be."""
    draw = random.Random(seed)
    pool = questions(draw, max(8, requests // 3), model=model, context=context)
    streamed = [asked for asked in pool if asked.stream]
    fates = draw.choices(list(FATES), weights=list(FATES.values()), k=requests)
    await ask(port, pool[0], "whole", draw)  # what is made once is made before we count
    before = await counts(port, process)
    watch = Watch()
    watcher = asyncio.create_task(watch.look(port))
    gate = asyncio.Semaphore(at_once)

    async def one(fate: str) -> tuple[Ask, str, Seen]:
        asked = draw.choice(streamed if fate == "leaves midway" else pool)
        if fate == "malformed":
            asked = Ask(asked.path, draw.choice(MALFORMED))
        async with gate:
            return asked, fate, await ask(port, asked, fate, random.Random(draw.random()))

    began = time.monotonic()
    done = await asyncio.gather(*(one(fate) for fate in fates))
    took = time.monotonic() - began
    watcher.cancel()
    with suppress(asyncio.CancelledError):
        await watcher
    problems = [f"while it blew: {text}" for text in watch.failures]
    problems += _strange(done)
    after = await counts(port, process)
    end = await settled(port)
    problems += end["problems"]
    problems += [
        f"{end[name]} {name}" for name in ("running", "waiting", "jobs", "pins") if end[name]
    ]
    problems += [
        f"{before[name]} {name} before, {after[name]} after"
        for name in ("tasks", "files")
        if after.get(name, 0) > before.get(name, 0)
    ]
    wrong, checked = await _differing(port, done, draw)
    problems += wrong
    streams = [seen for asked, _, seen in done if asked.stream and seen.outcome == "answered"]
    gaps = [b - a for seen in streams for a, b in pairwise(seen.times)]
    tokens = sum(seen.tokens for _, _, seen in done)
    return {
        "what": "storm",
        "requests": requests,
        "at_once": at_once,
        "seconds": round(took, 2),
        "outcomes": dict(Counter(f"{fate}: {seen.outcome}" for _, fate, seen in done)),
        "refused_and_sent_again": sum(seen.retries for _, _, seen in done),
        "tokens_of_answers_per_s": round(tokens / took, 1),
        "first_token_ms": quantiles([s.times[0] - s.begun for s in streams if s.times]),
        "between_tokens_ms": quantiles(gaps),
        "health_ms": quantiles(watch.lags),
        "fullest_cache": round(watch.fullest, 3),
        "before": before,
        "after": after,
        "answers_compared": checked,
        "problems": problems,
    }


def _strange(done: Sequence[tuple[Ask, str, Seen]]) -> list[str]:
    """Outcomes that no request should have."""
    expected = {
        "whole": ("answered",),
        "slow": ("answered",),
        "leaves midway": ("answered", "left"),
        "leaves before headers": ("left",),
        "half a body": ("left",),
        "malformed": ("status 400", "status 404", "status 422"),
    }
    return [
        f"{fate}, {asked.path}: {seen.outcome} {asked.body!r:.160} {seen.said[-1:]!r:.300}"
        for asked, fate, seen in done
        if seen.outcome not in expected[fate]
    ]


async def _differing(
    port: int, done: Sequence[tuple[Ask, str, Seen]], draw: random.Random
) -> tuple[list[str], int]:
    """Answers that differ from what the same request is answered alone; how many were compared."""
    alone: dict[Ask, list[Any]] = {}
    wrong, checked = [], 0
    for asked, fate, seen in done:
        if seen.outcome != "answered" or fate == "malformed":
            continue
        if asked not in alone:
            alone[asked] = (await ask(port, asked, "whole", draw)).said
        checked += 1
        if alone[asked] != seen.said:
            wrong.append(f"another answer alone: {asked.path} {asked.body!r:.200}")
    return wrong, checked


async def rate(port: int, count: int, *, model: str, tokens: int, seed: int) -> tuple[float, float]:
    """(tokens/s while all of `count` streams decode, median gap in ms)."""
    draw = random.Random(seed)
    never_ends = {str(i): -100 for i in (0, 1, 2)}
    asked = [
        Ask(
            "/v1/completions",
            json.dumps(
                {
                    "model": model,
                    "prompt": " ".join(draw.choices("abcdefgh", k=60)),
                    "max_tokens": tokens,
                    "temperature": 0,
                    "stream": True,
                    "logprobs": 0,
                    "logit_bias": never_ends,
                }
            ).encode(),
            True,
        )
        for _ in range(count)
    ]
    seen = await asyncio.gather(*(ask(port, one, "whole", draw) for one in asked))
    times = [s.times for s in seen if len(s.times) > 1]
    if len(times) < count:
        raise SystemExit(f"error: a stream had no tokens: {[s.outcome for s in seen]}")
    began, ended = max(t[0] for t in times), min(t[-1] for t in times)
    inside = sum(began < at <= ended for t in times for at in t)
    gaps = [b - a for t in times for a, b in pairwise(t)]
    return inside / (ended - began), 1000 * statistics.median(gaps)
