"""How the server conducts itself: keys, limits, draining, web pages."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.serving import HELLO, WEATHER, Build, chunks, client, named, served, wait

from dsv4.chat.answer import Usage
from dsv4.chat.request import Request
from dsv4.engine.sampler import Sampler
from dsv4.errors import RequestError, UsageError
from dsv4.server import desk, job
from dsv4.server.accounts import Keys, key_name, read_keys, unknown_key
from dsv4.server.app import create_app
from dsv4.server.metrics import Metrics
from dsv4.server.settings import Settings

CHAT = {"model": "scripted", "messages": HELLO}
MESSAGE = {"model": "claude", "messages": HELLO, "max_tokens": 5}
KEYS = Keys(("sk-one", "sk-two"))
PATHS = ("/v1/models", "/user/balance", "/debug/integrity")


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses", "/tokenize"])
def test_a_key_is_needed(scripted: Build, path: str) -> None:
    with client(scripted("x"), KEYS) as http:
        for headers in ({}, {"Authorization": "Bearer sk-three"}, {"Authorization": "Basic x"}):
            response = http.post(path, json={}, headers=headers)
            assert response.status_code == 401
            assert response.json()["error"]["type"] == "authentication_error"
            assert response.json()["error"]["code"] == "invalid_api_key"
            assert "sk-three" not in response.text
        for headers in ({"Authorization": "Bearer sk-two"}, {"x-api-key": "sk-one"}):
            assert http.post(path, json={}, headers=headers).status_code != 401


@pytest.mark.parametrize("path", PATHS)
def test_a_key_is_needed_to_look(scripted: Build, path: str) -> None:
    with client(scripted("x"), KEYS) as http:
        assert http.get(path).status_code == 401


@pytest.mark.parametrize("path", ["/health", "/ready", "/version", "/metrics", "/openapi.json"])
def test_probes_need_no_key(scripted: Build, path: str) -> None:
    with client(scripted("x"), KEYS) as http:
        assert http.get(path).status_code == 200


def test_a_wrong_key_is_told_in_the_callers_dialect(scripted: Build) -> None:
    with client(scripted("x"), KEYS) as http:
        response = http.post("/v1/messages", json=MESSAGE, headers={"x-api-key": "sk-no"})
        assert response.status_code == 401
        assert response.json()["error"]["type"] == "authentication_error"
        good = {"Authorization": "Bearer sk-one"}
        assert http.post("/v1/messages", json=MESSAGE, headers=good).status_code == 200


def test_keys_are_read(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("# ours\nsk-a\n\n  sk-b # of Bob\n", encoding="utf-8")
    assert read_keys(["sk-c", "sk-a"], file) == ("sk-c", "sk-a", "sk-b")
    file.write_text("# none\n", encoding="utf-8")
    with pytest.raises(UsageError, match="no key"):
        read_keys([], file)
    with pytest.raises(UsageError, match="can not read"):
        read_keys([], tmp_path / "nowhere")
    for bad in ("", "a b", "schlüssel"):
        with pytest.raises(UsageError, match="printable"):
            read_keys([bad], None)


def test_names_and_messages_do_not_give_keys_away() -> None:
    assert "sk-one" not in repr(KEYS) and "sk-one" not in key_name("sk-one")
    assert KEYS.identify("sk-one").name != KEYS.identify("sk-two").name
    with pytest.raises(RequestError) as caught:
        KEYS.identify("sk-\ud83d")
    assert "sk-" not in str(caught.value)


class Ledger:
    """Accounts that note what they are charged; `poor` has nothing left."""

    def __init__(self) -> None:
        self.charged: list[tuple[str, Usage]] = []

    def identify(self, key: str | None) -> Any:
        if key is None:
            raise unknown_key(key)
        if key == "poor":
            raise RequestError("Insufficient Balance", status=402, code="insufficient_quota")
        return self.find(key)

    def find(self, key: str | None) -> Any:
        return _Noted(key or "", self.charged)


class _Noted:
    def __init__(self, name: str, charged: list[tuple[str, Usage]]) -> None:
        self.name = name
        self._charged = charged

    def charge(self, model: str, usage: Usage) -> None:
        assert model == "scripted"
        self._charged.append((self.name, usage))

    def balance(self) -> dict[str, Any]:
        info = {"currency": "USD", "total_balance": "1.50"}
        return {"is_available": True, "balance_infos": [info]}


def test_accounts_are_charged_once_per_request(scripted: Build) -> None:
    ledger = Ledger()
    with client(scripted("Hello"), ledger) as http:
        good = {"x-api-key": "rich"}
        for stream in (True, False):
            http.post("/v1/chat/completions", json=CHAT | {"stream": stream}, headers=good)
        assert [(name, usage.completion) for name, usage in ledger.charged] == [("rich", 5)] * 2
        poor = http.post("/v1/chat/completions", json=CHAT, headers={"x-api-key": "poor"})
        assert poor.status_code == 402
        assert poor.json()["error"]["type"] == "insufficient_quota"
        for key in ("rich", "poor"):
            balance = http.get("/user/balance", headers={"x-api-key": key}).json()
            assert balance["balance_infos"][0]["total_balance"] == "1.50"
        assert len(ledger.charged) == 2


def test_who_leaves_is_charged_for_what_was_computed(scripted: Build) -> None:
    ledger = Ledger()
    asking = CHAT | {"stream": True, "max_tokens": 4000}
    with served(scripted("a" * 4000, delay=0.01), ledger) as base:
        good = {"x-api-key": "rich"}
        with httpx.stream("POST", f"{base}/chat/completions", json=asking, headers=good) as stream:
            lines = stream.iter_lines()
            for _ in range(8):
                next(lines)
        wait(lambda: bool(ledger.charged))
    ((_, usage),) = ledger.charged
    assert usage.prompt > 0 and 0 < usage.completion < 4000


def test_a_key_may_have_so_many_requests_under_way(scripted: Build) -> None:
    engine = scripted("a" * 4000, delay=0.01)
    asking = CHAT | {"stream": True, "max_tokens": 4000}
    with served(engine, KEYS, Settings(per_key=1)) as base:
        url = f"{base}/v1/chat/completions"
        one, two = {"x-api-key": "sk-one"}, {"x-api-key": "sk-two"}
        with httpx.stream("POST", url, json=asking, headers=one):
            refused = httpx.post(url, json=CHAT, headers=one)
            assert refused.status_code == 429 and int(refused.headers["retry-after"]) > 0
            short = CHAT | {"max_tokens": 1}
            assert httpx.post(url, json=short, headers=two).status_code == 200
        wait(lambda: httpx.post(url, json=short, headers=one).status_code == 200)


def test_draining_refuses_and_finishes(scripted: Build) -> None:
    app = create_app(scripted("x"))
    transport = httpx.ASGITransport(app)

    async def ask() -> None:
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as http:
            assert (await http.get("/ready")).json() == {"ready": True}
            app.state.desk.draining = True
            assert (await http.get("/ready")).status_code == 503
            refused = await http.post("/v1/chat/completions", json=CHAT)
            assert refused.status_code == 503 and "retry-after" in refused.headers
            refused = await http.post("/v1/messages", json=MESSAGE)
            assert refused.status_code == 529
            assert refused.json()["error"]["type"] == "overloaded_error"
            assert (await http.get("/health")).status_code == 200

    asyncio.run(ask())


@pytest.mark.parametrize(
    ("path", "asking", "last"),
    [
        ("/v1/chat/completions", CHAT, '"overloaded_error"'),
        ("/v1/messages", MESSAGE | {"max_tokens": 4000}, '"overloaded_error"'),
        ("/v1/responses", {"model": "scripted", "input": "x"}, '"response.failed"'),
    ],
)
def test_streams_that_are_stopped_say_so(
    scripted: Build, path: str, asking: dict[str, Any], last: str
) -> None:
    engine = scripted("a" * 4000, delay=0.01)
    with client(engine) as http:
        at = http.app.state.desk  # type: ignore[attr-defined]

        def stop() -> None:
            wait(lambda: at.busy)
            assert http.portal is not None
            http.portal.call(at.stop)

        thread = threading.Thread(target=stop)
        thread.start()
        text = http.post(path, json=asking | {"stream": True}).text
        thread.join()
    assert last in text.rstrip("\n").split("\n\n")[-1]
    assert "[DONE]" not in text and "message_stop" not in text


def test_who_waits_too_long_is_told(scripted: Build) -> None:
    engine = scripted("a" * 4000, delay=0.02, running=1)
    settings = Settings(queue_seconds=0.1, keep_alive_seconds=0.05)
    with served(engine, settings=settings) as base:
        url = f"{base}/v1/chat/completions"
        long = CHAT | {"stream": True, "max_tokens": 4000}
        with httpx.stream("POST", url, json=long):
            wait(lambda: engine.service.running == 1)
            refused = httpx.post(url, json=CHAT)
    assert refused.status_code == 503
    assert refused.json()["error"]["code"] == "queue_timeout"


def test_request_ids_are_echoed(scripted: Build) -> None:
    with client(scripted("x")) as http:
        given = http.get("/health", headers={"X-Request-Id": "mine-1"})
        assert given.headers["x-request-id"] == "mine-1"
        made = [http.get("/nowhere").headers["x-request-id"] for _ in range(2)]
        assert made[0] != made[1]
        odd = http.get("/health", headers={"X-Request-Id": "a b"})
        assert odd.headers["x-request-id"] != "a b"


PREFLIGHT = {"Origin": "http://page", "Access-Control-Request-Method": "POST"}


def test_web_pages_may_not_ask_unless_told(scripted: Build) -> None:
    with client(scripted("x")) as http:
        assert http.options("/v1/chat/completions", headers=PREFLIGHT).status_code == 405
        answer = http.get("/health", headers={"Origin": "http://page"})
        assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize("origin", ["*", "http://page"])
def test_web_pages_of_an_origin(scripted: Build, origin: str) -> None:
    with client(scripted("x"), settings=Settings(origins=(origin,))) as http:
        asked = PREFLIGHT | {"Access-Control-Request-Headers": "authorization"}
        answer = http.options("/v1/chat/completions", headers=asked)
        assert (answer.status_code, answer.content) == (204, b"")
        assert answer.headers["access-control-allow-origin"] == "http://page"
        assert answer.headers["access-control-allow-headers"] == "authorization"
        answer = http.get("/health", headers={"Origin": "http://page"})
        assert answer.headers["access-control-allow-origin"] == "http://page"
        other = http.get("/health", headers={"Origin": "http://other"})
        assert ("access-control-allow-origin" in other.headers) == (origin == "*")


def test_large_bodies_in_anthropics_dialect(scripted: Build) -> None:
    with client(scripted("x"), settings=Settings(most_body=100)) as http:
        response = http.post("/v1/messages", json=MESSAGE | {"system": "s" * 100})
    assert response.status_code == 413
    assert response.json()["error"]["type"] == "request_too_large"


@pytest.mark.parametrize("begun", [b"", b"POST /health HTTP/1.1\r\nHost: x\r\n"])
def test_a_head_has_to_come_in_time(scripted: Build, begun: bytes) -> None:
    with served(scripted("x"), settings=Settings(head_seconds=0.2)) as base:
        host, port = base.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=5) as connection:
            connection.sendall(begun)
            assert connection.recv(1) == b""


def test_an_answer_may_take_longer_than_a_head(scripted: Build) -> None:
    settings = Settings(head_seconds=0.1)
    with served(scripted("abcdef", delay=0.1), settings=settings) as base:
        assert len(
            chunks(httpx.post(f"{base}/chat/completions", json=CHAT | {"stream": True}).text)
        )


def test_a_body_has_to_come_in_time(scripted: Build) -> None:
    with served(scripted("x"), settings=Settings(body_seconds=0.2)) as base:
        host, port = base.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=5) as connection:
            connection.sendall(
                b"POST /chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{"
            )
            assert b" 408 " in connection.recv(100)


def test_prompts_are_not_logged(
    scripted: Build, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise ZeroDivisionError

    secret = CHAT | {"messages": [{"role": "user", "content": "hush"}]}
    with caplog.at_level("DEBUG"), client(scripted("x")) as http:
        http.post("/v1/chat/completions", json=secret)
        monkeypatch.setattr(Sampler, "draw", broken)
        http.post("/v1/chat/completions", json=secret | {"stream": True})
        named(http.post("/v1/messages", json=MESSAGE | {"system": "hush", "stream": True}).text)
    assert "hush" not in caplog.text


def test_a_slow_reader_is_given_up(scripted: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job, "MOST_UNREAD", 10)
    engine = scripted("a" * 4000)
    prepared = engine.prepare(Request(HELLO, effort="none", max_tokens=4000))

    async def read() -> list[Any]:
        slow = job.Job(engine, prepared, Metrics(engine), lambda _, usage: used.append(usage))
        while engine.service.running or engine.service.waiting:
            await asyncio.sleep(0.01)
        return [event async for event in slow.events(5, 5)]

    used: list[Usage] = []
    with pytest.raises(RequestError, match="too slowly"):
        asyncio.run(read())
    engine.close()
    assert used[0].prompt > 0 and 10 <= used[0].completion < 4000


def test_who_takes_nothing_of_an_answer_is_cut_off(scripted: Build) -> None:
    asked, count = b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n", 400
    with served(scripted("x"), settings=Settings(write_seconds=0.2)) as base:
        host, port = base.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=5) as connection:
            connection.sendall(asked * count)
            time.sleep(2)
            got = b""
            try:
                while part := connection.recv(1 << 20):
                    got += part
            except ConnectionResetError:
                pass
    assert got.count(b"HTTP/1.1 200") < count


@pytest.mark.parametrize(
    ("path", "asking"),
    [("/v1/chat/completions", CHAT | {"user": "me"}), ("/v1/completions", {"prompt": "x"})],
)
def test_users_of_different_keys_are_never_the_same(
    scripted: Build, path: str, asking: dict[str, Any]
) -> None:
    engine = scripted("x")
    users: list[str] = []
    start = engine.start

    def note(prepared: Any, deliver: Any) -> Any:
        users.append(prepared.request.user)
        return start(prepared, deliver)

    engine.start = note  # type: ignore[method-assign]
    asking = {"model": "scripted", "user": "me", **asking}
    with client(engine, KEYS) as http:
        for key in ("sk-one", "sk-two", "sk-one"):
            http.post(path, json=asking, headers={"x-api-key": key})
        http.post(path, json=asking | {"user": "you"}, headers={"x-api-key": "sk-one"})
    assert users[0] == users[2] and len({*users}) == 3


def test_slow_grammars_hold_up_nobody_else(
    scripted: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(desk, "MOST_COMPILED", 3)
    engine = scripted("x")
    prepare, free = engine.prepare, threading.Event()

    def slowly(asked: Request) -> Any:
        if asked.tools:
            free.wait(10)
        return prepare(asked)

    engine.prepare = slowly  # type: ignore[method-assign]
    with served(engine) as base:
        url = f"{base}/v1/chat/completions"
        found: list[int] = []
        asking = CHAT | {"tools": [WEATHER], "tool_choice": "none"}
        threads = [
            threading.Thread(target=lambda: found.append(httpx.post(url, json=asking).status_code))
            for _ in range(30)
        ]
        for thread in threads:
            thread.start()
        wait(lambda: len(found) == 27)
        assert set(found) == {429}
        assert httpx.post(url, json=CHAT, timeout=5).status_code == 200
        free.set()
        for thread in threads:
            thread.join()
    assert sorted(found) == [200] * 3 + [429] * 27


def test_what_nobody_read_is_charged_too(scripted: Build) -> None:
    engine = scripted("abc</think>de")
    prepared = engine.prepare(Request(HELLO, max_tokens=20))

    async def leave() -> None:
        begun = job.Job(engine, prepared, Metrics(engine), lambda _, usage: used.append(usage))
        await asyncio.sleep(0.1)
        while engine.service.running or engine.service.waiting:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)
        begun.close()

    used: list[Usage] = []
    asyncio.run(leave())
    engine.close()
    ((usage),) = used
    assert (usage.prompt, usage.completion, usage.reasoning) == (len(prepared.ids), 6, 4)


def test_waiting_prompts_have_so_many_tokens(scripted: Build) -> None:
    engine = scripted("a" * 4000, delay=0.02, running=1)
    long = CHAT | {"stream": True, "max_tokens": 4000}
    with served(engine, settings=Settings(queue_tokens=12)) as base:
        url = f"{base}/v1/chat/completions"
        with httpx.stream("POST", url, json=long) as first:
            lines = first.iter_lines()
            next(lines)  # it has begun, and waits no more
            with httpx.stream("POST", url, json=long) as second:
                assert second.status_code == 200
                wait(lambda: engine.service.waiting == 1)
                refused = httpx.post(url, json=CHAT)
    assert refused.status_code == 429 and "tokens are waiting" in refused.text
    assert int(refused.headers["retry-after"]) > 0
