"""The file of requests: what is wrong with it is told by line before anything is sent."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.unit.batch.batches import line, write

from dsv4.batch.request import ENDPOINTS, read
from dsv4.errors import UsageError

GOOD = json.dumps(line("good"))


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ("{", "is not JSON: Expecting property name enclosed in double quotes, column 2"),
        ("[1]", "is no JSON object"),
        ('{"custom_id": NaN}', "is not JSON: NaN is no number"),
        ("[" * 100_000, "is not JSON: maximum recursion depth exceeded"),
        (b"\xff{}", "is not UTF-8: byte 1"),
        ({"custom_id": None}, "has a custom_id that is no string"),
        ({"custom_id": ""}, "has an empty custom_id"),
        ({"custom_id": "good"}, "has the custom_id 'good' of line 1"),
        ({"method": "GET"}, "has the method 'GET'; it has to be POST"),
        ({"url": "http://host/v1/x"}, "has the url 'http://host/v1/x'; it has to begin with /v1/"),
        ({"url": "/v1/../admin"}, "has the url '/v1/../admin'; it has to begin with /v1/"),
        ({"url": "/v1/embeddings"}, "has the url '/v1/embeddings'; there are /v1/chat/completions"),
        ({"body": "x"}, "has a body that is no object"),
        ({"body": {"stream": True}}, "asks for a stream, which a batch cannot give"),
        *(({key: ...}, f"lacks {key}") for key in ("custom_id", "method", "url", "body")),
    ],
)
def test_malformed_lines(wrong: Any, why: str, tmp_path: Path) -> None:
    if isinstance(wrong, dict):
        changed = line("bad") | wrong
        wrong = json.dumps({key: value for key, value in changed.items() if value is not ...})
    data = wrong if isinstance(wrong, bytes) else wrong.encode()
    path = tmp_path / "in.jsonl"
    path.write_bytes(GOOD.encode() + b"\n\n" + data + b"\n" + json.dumps(line("c")).encode())
    with pytest.raises(UsageError) as error:
        read(path, ENDPOINTS)
    assert f"{path}: nothing was sent\n  line 3 {why}" in str(error.value)
    assert error.value.hint is not None and "custom_id" in error.value.hint


def test_many_malformed_lines(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text("\n".join([GOOD, *["{"] * 15]), encoding="utf-8")
    with pytest.raises(UsageError) as error:
        read(path)
    shown = str(error.value).splitlines()
    assert [text.split(" is ")[0] for text in shown[1:11]] == [f"  line {n}" for n in range(2, 12)]
    assert shown[11:] == ["  and 5 more"]


def test_no_requests(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    with pytest.raises(UsageError, match="cannot read"):
        read(path)
    path.write_text("\n \n", encoding="utf-8")
    with pytest.raises(UsageError, match="holds no requests"):
        read(path)


def test_bodies_are_read_where_they_stand(tmp_path: Path) -> None:
    lines = [line(f"é{i}", "ü" * i) for i in range(5)]
    text = "\ufeff" + "\r\n\n".join(json.dumps(one, ensure_ascii=False) for one in lines)
    path = tmp_path / "in.jsonl"
    path.write_bytes(text.encode())
    found = read(path)
    assert [request.custom_id for request in found] == [one["custom_id"] for one in lines]
    assert [found.body(request) for request in found] == [one["body"] for one in lines]
    assert [request.number for request in found] == [1, 3, 5, 7, 9]
    write(path, lines[::-1])
    with pytest.raises(UsageError, match="changed while it was used: line 1"):
        found.body(found[0])


def test_an_id_is_that_of_the_request(tmp_path: Path) -> None:
    (first,) = read(write(tmp_path / "a", [line("a", seed=1)]))
    (same,) = read(write(tmp_path / "b", [dict(reversed(line("a", seed=1).items()))]))
    (other,) = read(write(tmp_path / "c", [line("a", seed=2)]))
    assert first.id == same.id != other.id


def test_any_endpoint_of_a_url(tmp_path: Path) -> None:
    (found,) = read(write(tmp_path / "a", [line("a") | {"url": "/v1/embeddings"}]))
    assert found.path == "embeddings"
