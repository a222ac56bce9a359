"""Generated requests against the server: never a 5xx, never a hang, and answers as described."""

from __future__ import annotations

import contextlib
import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import CHECKS
from schemathesis.core.errors import UnsupportedSchema
from schemathesis.generation.modes import GenerationMode
from tests.serving import Build, served

from dsv4.server.app import create_app

OPENAI = Path(__file__).parents[1] / "data" / "openai" / "openapi.json.gz"
GENERATED = ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages")
GENERATED += ("/v1/messages/count_tokens", "/tokenize", "/detokenize", "/v1/models/{model}")
ALIKE = ("/v1/models", "/user/balance", "/health", "/ready", "/version")
"""Paths whose requests are all the same."""
THEIRS = ("/chat/completions", "/completions", "/responses")
SECONDS = 10

Requests = tuple[str, Any]


@pytest.fixture(scope="module")
def base(scripted: Build) -> Iterator[str]:
    with served(scripted("x")) as address:
        yield address


def try_requests(
    document: dict[str, Any], path: str, base: str, count: int, checks: tuple[str, ...]
) -> None:
    """Send `count` requests of each kind to a path of a document."""
    operations = schemathesis.openapi.from_dict(document).get_all_operations()
    (operation,) = [o for o in (found.ok() for found in operations) if o.path == path]
    chosen = [CHECKS.get_one(name) for name in checks]
    for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
        if mode is GenerationMode.NEGATIVE and not list(operation.body):
            continue

        @settings(
            max_examples=count,
            deadline=None,
            database=None,
            derandomize=True,
            phases=[Phase.explicit, Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy(generation_mode=mode))
        def send(case: Any) -> None:
            nonlocal sent
            sent += 1
            response = case.call(base_url=base, timeout=SECONDS)
            case.validate_response(response, checks=chosen)

        sent = 0
        with contextlib.suppress(UnsupportedSchema):  # of a `not` that can not be turned around
            send()
        assert sent


COUNTS = (30, pytest.param(500, marks=pytest.mark.slow))


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("path", (*GENERATED, *ALIKE))
def test_our_document_is_true(scripted: Build, base: str, path: str, count: int) -> None:
    document = create_app(scripted("x")).openapi()
    checks = (
        "not_a_server_error",
        "status_code_conformance",
        "content_type_conformance",
        "response_schema_conformance",
    )
    try_requests(document, path, base, 3 if path in ALIKE else count, checks)


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("path", THEIRS)
def test_requests_of_openais_document(base: str, path: str, count: int) -> None:
    document = json.loads(gzip.decompress(OPENAI.read_bytes()))
    try_requests(document, path, base, count, ("not_a_server_error",))
