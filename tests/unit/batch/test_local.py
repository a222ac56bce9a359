"""The server without a socket: its errors, its end, and many requests at once."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from tests.unit.batch.batches import line

from dsv4.batch.local import LocalServer
from dsv4.chat.engine import Engine
from dsv4.evaluation.client import Response

Build = Callable[..., Engine]
BODY = line("a")["body"]


def test_answers_and_refusals(scripted: Build) -> None:
    server = LocalServer(scripted("Hello"))
    try:
        answer = server.post("chat/completions", BODY)
        assert answer.status == 200 and len(answer.request_id) == 32
        assert answer.body["choices"][0]["message"]["content"] == "Hello"
        assert server.post("chat/completions", {**BODY, "model": "x"}).status == 400
        assert server.post("nothing", BODY).status == 404
    finally:
        server.close()


def test_all_at_once(scripted: Build) -> None:
    server = LocalServer(scripted("Hello", delay=0.002, running=4))
    with ThreadPoolExecutor(64) as pool:
        answers = list(pool.map(lambda _: server.post("chat/completions", BODY), range(200)))
    server.close()
    assert {answer.status for answer in answers} == {200}
    assert len({answer.body["id"] for answer in answers}) == 200


def test_a_bug_is_an_answer_too(
    scripted: Build, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    engine = scripted("Hello")

    def fail(*_: object) -> None:
        raise ZeroDivisionError("ours")

    monkeypatch.setattr(engine, "prepare", fail)
    server = LocalServer(engine)
    try:
        with caplog.at_level(logging.ERROR, "dsv4.batch"):
            answer = server.post("chat/completions", BODY)
    finally:
        server.close()
    assert answer.status == 500 and answer.body["error"]["type"] == "server_error"
    assert "ZeroDivisionError: ours" in caplog.text


def test_closing_ends_what_is_under_way(scripted: Build) -> None:
    server = LocalServer(scripted("word " * 2000, delay=0.01))
    answers: list[Response] = []
    thread = threading.Thread(
        target=lambda: answers.append(server.post("chat/completions", BODY | {"max_tokens": 4000}))
    )
    thread.start()
    time.sleep(0.3)
    start = time.monotonic()
    server.close()
    thread.join(10)
    assert time.monotonic() - start < 5  # the whole answer takes a hundred seconds
    assert [answer.status for answer in answers] == [499]
