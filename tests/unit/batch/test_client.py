"""Asking an API over HTTP: which troubles are tried again, and what is told in the end."""

from __future__ import annotations

import time
import urllib.request

import pytest
from tests.unit.batch.batches import Reply, api, bad, good, line

from dsv4.errors import RequestError, UsageError
from dsv4.evaluation.client import NO_ANSWER, Client

BODY = line("a")["body"]


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504, 529])
def test_passing_troubles(status: int) -> None:
    def say(text: str, before: int) -> Reply:
        return good(text) if before == 2 else bad(status)

    with api(say) as (url, asked):
        response = Client(url, first_pause=0.01).post("chat/completions", BODY)
    assert (response.status, response.request_id, len(asked)) == (200, "of hi", 3)


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 422])
def test_refusals_are_told_at_once(status: int) -> None:
    with api(lambda text, before: bad(status)) as (url, asked):
        response = Client(url, first_pause=0.01).post("chat/completions", BODY)
    assert (response.status, response.body["error"]["code"], len(asked)) == (status, "trouble", 1)


def test_a_trouble_that_does_not_pass() -> None:
    with api(lambda text, before: bad(503)) as (url, asked):
        response = Client(url, retries=2, first_pause=0.01).post("chat/completions", BODY)
    assert (response.status, len(asked)) == (503, 3)


def test_broken_connections() -> None:
    with api(lambda text, before: good(text) if before else None) as (url, asked):
        assert Client(url, first_pause=0.01).post("chat/completions", BODY).status == 200
        assert len(asked) == 2
    with pytest.raises(RequestError, match="no answer from") as error:
        Client(url, retries=1, first_pause=0.01).post("chat/completions", BODY)
    assert error.value.code == NO_ANSWER


@pytest.mark.parametrize("data", [b"<html>", b"[1]", b'{"a": NaN}', b"\xff"])
def test_no_json_object(data: bytes) -> None:
    with (
        api(lambda text, before: (200, {}, data)) as (url, asked),
        pytest.raises(RequestError, match="answered 200 with no JSON object") as error,
    ):
        Client(url, first_pause=0.01).post("chat/completions", BODY)
    assert (error.value.code, error.value.status, len(asked)) == ("invalid_response", 502, 1)
    with (
        api(lambda text, before: (502, {}, data)) as (url, asked),
        pytest.raises(RequestError, match="answered 502 with no JSON object"),
    ):
        Client(url, retries=1, first_pause=0.01).post("chat/completions", BODY)
    assert len(asked) == 2


def test_it_waits_as_long_as_it_is_told() -> None:
    def say(text: str, before: int) -> Reply:
        return good(text) if before else bad(429, Retry_After="0.3")

    with api(say) as (url, _):
        start = time.monotonic()
        Client(url, first_pause=0.001).post("chat/completions", BODY)
        assert time.monotonic() - start >= 0.3
        with pytest.raises(UsageError, match="is no URL"):
            Client("localhost:8000")


def test_pauses_double() -> None:
    with api(lambda text, before: bad(500)) as (url, asked):
        start = time.monotonic()
        Client(url, retries=3, first_pause=0.1).post("chat/completions", BODY)
        # Half of 0.1 + 0.2 + 0.4 at least.
        assert time.monotonic() - start >= 0.35
    assert len(asked) == 4


def test_nothing_is_tried_again_at_the_end() -> None:
    with api(lambda text, before: bad(500)) as (url, asked):
        client = Client(url, first_pause=30)
        client.settle()
        assert client.post("chat/completions", BODY).status == 500
    assert len(asked) == 1


def test_the_key() -> None:
    keys = []

    with api(lambda text, before: good(text)) as (url, _):
        real = urllib.request.urlopen

        def watched(request: urllib.request.Request, timeout: float) -> object:
            keys.append(request.get_header("Authorization"))
            return real(request, timeout=timeout)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(urllib.request, "urlopen", watched)
            Client(url, "sk-1").post("chat/completions", BODY)
            Client(url).post("chat/completions", BODY)
    assert keys == ["Bearer sk-1", None]
