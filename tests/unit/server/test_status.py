"""What the server tells of itself, and tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.serving import HELLO, Build, client

from dsv4.version import __version__

CHAT: dict[str, Any] = {"model": "scripted", "messages": HELLO}


@pytest.mark.parametrize("prefix", ["", "/v1"])
def test_models(scripted: Build, prefix: str) -> None:
    with client(scripted("x")) as http:
        listed = http.get(f"{prefix}/models").json()
        entry = http.get(f"{prefix}/models/deepseek-chat").json()
        missing = http.get(f"{prefix}/models/gpt-17")
    assert listed["object"] == "list" and entry in listed["data"]
    assert entry["context_window"] == 4096
    assert missing.status_code == 404
    assert missing.json()["error"]["code"] == "model_not_found"


def test_balance(scripted: Build) -> None:
    with client(scripted("x")) as http:
        assert http.get("/user/balance").json() == {"is_available": True, "balance_infos": []}


def test_integrity(scripted: Build) -> None:
    with client(scripted("x")) as http:
        http.post("/chat/completions", json=CHAT)
        assert http.get("/debug/integrity").json()["problems"] == []


def test_version(scripted: Build) -> None:
    with client(scripted("x")) as http:
        assert http.get("/version").json() == {"version": __version__, "model": "scripted"}


def test_tokens_there_and_back(scripted: Build) -> None:
    with client(scripted("x")) as http:
        asked = {"prompt": "Grüße", "return_token_strs": True}
        answer = http.post("/tokenize", json=asked).json()
        assert answer["count"] == len(answer["tokens"]) == len(answer["token_strs"]) == 8
        assert answer["max_model_len"] == 4096
        back = http.post("/detokenize", json={"tokens": answer["tokens"]}).json()
        assert back == {"prompt": "<｜begin▁of▁sentence｜>Grüße"}
        plain = http.post("/tokenize", json={"prompt": "a", "add_special_tokens": False}).json()
        assert plain["count"] == 1
        used = http.post("/chat/completions", json=CHAT).json()["usage"]
        chat = http.post("/tokenize", json={"messages": HELLO}).json()
        assert chat["count"] == used["prompt_tokens"]
        assert http.post("/detokenize", json={"tokens": [10**6]}).status_code == 400
        assert http.post("/detokenize", json={"tokens": [], "model": "no"}).status_code == 400
        for bad in ({}, {"prompt": "a", "messages": HELLO}):
            assert http.post("/tokenize", json=bad).status_code == 422


def numbers(text: str) -> dict[tuple[str, ...], float]:
    """Sample name and its labels' values, but for the model's -> value."""
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = [v for k, v in sorted(sample.labels.items()) if k != "model_name"]
            found[sample.name, *labels] = sample.value
    return found


def test_metrics(scripted: Build) -> None:
    with client(scripted("ab")) as http, client(scripted("x")) as other:
        used = http.post("/chat/completions", json=CHAT).json()["usage"]
        http.post("/chat/completions", json=CHAT | {"max_tokens": 1, "stream": True})
        seen = numbers(http.get("/metrics").text)
        assert numbers(other.get("/metrics").text)["vllm:prompt_tokens_total",] == 0
    assert seen["vllm:prompt_tokens_total",] == 2 * used["prompt_tokens"]
    assert seen["vllm:generation_tokens_total",] == 3
    assert seen["vllm:prefix_cache_queries_total",] == 2 * used["prompt_tokens"]
    assert seen["vllm:prefix_cache_hits_total",] == 0
    assert seen["vllm:request_success_total", "stop"] == 1
    assert seen["vllm:request_success_total", "length"] == 1
    assert seen["vllm:num_requests_running",] == seen["vllm:num_requests_waiting",] == 0
    for name in (
        *("time_to_first_token", "e2e_request_latency"),
        *("request_queue_time", "request_prefill_time", "request_decode_time"),
    ):
        assert seen[f"vllm:{name}_seconds_count",] == 2, name
    assert seen["vllm:num_preemptions_total",] == 0
    assert seen["vllm:spec_decode_num_draft_tokens_total",] == 0
    assert seen["vllm:spec_decode_num_accepted_tokens_total",] == 0
    assert ("kv_store_hits_total",) not in seen  # it has no folder
    assert 0 <= seen["vllm:kv_cache_usage_perc",] <= 1
    assert seen["vllm:inter_token_latency_seconds_count",] == 1


def test_malformed_markup_is_counted(scripted: Build) -> None:
    with client(scripted("a</think>b")) as http:
        http.post("/chat/completions", json=CHAT)
        seen = numbers(http.get("/metrics").text)
    assert seen["dsml_malformed_total", "stray_closer"] == 1


def test_a_folder_of_conversations_has_metrics(scripted: Build, tmp_path: Path) -> None:
    with client(scripted("ab", kv_folder=tmp_path / "kv")) as http:
        seen = numbers(http.get("/metrics").text)
    for name in ("bytes", "records", "hits_total", "misses_total", "dropped_total"):
        assert seen[f"kv_store_{name}",] >= 0
