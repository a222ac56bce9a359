"""Another implementation's predictions: that they are the same is seen, what is wrong is named."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tests.conftest import byte_vocabulary
from tests.parity.models import FLASH_LIKE, draw_config, draw_model, with_engram
from tests.serving import served

from dsv4 import checkpoint, locate
from dsv4.chat.engine import Engine
from dsv4.chat.model import load
from dsv4.checkpoint.plan import make_plan
from dsv4.cli.main import main
from dsv4.config import CSA, SWA
from dsv4.encoding.tokenizer import Tokenizer
from dsv4.errors import RequestError, UsageError
from dsv4.evaluation.conformance import lengths
from dsv4.evaluation.conformance.against import explaining, texts
from dsv4.evaluation.conformance.against import server as servers
from dsv4.evaluation.conformance.against.comparing import Other, verify_against
from dsv4.evaluation.conformance.against.drift import NOISE, divergences, drift, seen_as
from dsv4.evaluation.conformance.against.predictions import (
    Predictions,
    first_rows,
    likeliest,
    whole,
)
from dsv4.evaluation.conformance.faults import FAULTS
from dsv4.evaluation.conformance.page import page
from dsv4.evaluation.conformance.pieces import Pieces
from dsv4.evaluation.conformance.variant import Variant
from dsv4.evaluation.conformance.ways import logits
from dsv4.numerics.policy import EXACT, OFFICIAL, Numerics
from dsv4.presets import preset

T = 40
FEW = (
    "one-rope-base",
    "no-derotation",
    "no-sinks",
    "comb-not-transposed",
    "router-in-bfloat16",
    "sigmoid-scores",
    "compressor-in-fp8",
)


@pytest.fixture(autouse=True)
def _few_failures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trying all known failures takes seconds."""
    if "slow" not in request.keywords:
        monkeypatch.setattr(explaining, "FAULTS", {name: FAULTS[name] for name in FEW})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two layers, the first hash-routed, and bytes as vocabulary."""
    made = tmp_path_factory.mktemp("against") / "two"
    vocabulary = byte_vocabulary()
    size = len(vocabulary["added_tokens"]) + len(vocabulary["model"]["vocab"])
    config = dataclasses.replace(
        draw_config(1, (SWA, CSA)),
        vocab_size=size,
        num_hash_layers=1,
        hidden_size=64,
        moe_intermediate_size=32,
        sliding_window=16,
    )
    checkpoint.export_released(draw_model(config, 1), made)
    (made / "tokenizer.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    return made


def computed(
    folder: Path, ids: list[int], fault: str | None = None, numerics: Numerics = EXACT
) -> torch.Tensor:
    """Logits `[T, V]` of the reference, with or without a known failure."""
    within = nullcontext if fault is None else FAULTS[fault].planted
    variant = Variant("other", numerics, (), within)
    ((_, found),) = logits(Pieces(make_plan(folder)), ids, [variant], range(len(ids)))
    return found


@pytest.fixture(scope="module")
def ids(folder: Path) -> list[int]:
    return lengths.prompt(make_plan(folder).config, T)


# Files.


def test_a_file_of_the_reference_passes(folder: Path, ids: list[int], tmp_path: Path) -> None:
    file = tmp_path / "logits.safetensors"
    save_file({"tokens": torch.tensor(ids), "logits": computed(folder, ids)}, file)
    report = verify_against(folder, Other(str(file)))
    assert report.passed and [row.of for row in report.drifts] == [str(file), "official", "fast"]
    theirs, official, _ = report.drifts
    assert max(theirs.divergence) < 1e-9 and min(theirs.overlap) > 0.9 and all(theirs.top)
    assert official.mean > 1e-4
    _, note = report.findings
    assert note.what == "predictions are those of exact"


@pytest.mark.parametrize(
    ("fault", "numerics", "kind"),
    [
        ("no-derotation", EXACT, "whole"),
        ("comb-not-transposed", OFFICIAL, "npz"),
        ("no-sinks", EXACT, "top"),
        # Rounding differs by more than these, but not in this way.
        ("router-in-bfloat16", EXACT, "whole"),
        ("compressor-in-fp8", EXACT, "whole"),
    ],
)
def test_a_planted_failure_is_found_and_named(
    folder: Path, ids: list[int], tmp_path: Path, fault: str, numerics: Numerics, kind: str
) -> None:
    wrong = computed(folder, ids, fault, numerics)
    tokens = torch.tensor(ids)
    file = tmp_path / "other.safetensors"
    if kind == "top":
        top = wrong.log_softmax(-1).topk(20)
        rows = torch.arange(0, T, 3)
        save_file(
            {
                "tokens": tokens,
                "positions": rows,
                "top_tokens": top.indices[rows].contiguous(),
                "top_logprobs": top.values[rows].contiguous(),
            },
            file,
        )
    elif kind == "npz":
        file = tmp_path / "other.npz"
        np.savez(file, tokens=tokens.numpy(), logits=wrong.numpy())
    else:
        save_file({"tokens": tokens, "logits": wrong}, file)
    report = verify_against(folder, Other(str(file)))
    assert not report.passed
    finding = report.findings[0]
    assert finding.resembles is not None and finding.resembles.startswith(f"{fault} (explains ")
    assert " or " not in finding.resembles and finding.hint == FAULTS[fault].hint


def test_rounding_is_no_failure(folder: Path, ids: list[int], tmp_path: Path) -> None:
    file = tmp_path / "other.safetensors"
    rounded = computed(folder, ids, numerics=OFFICIAL)
    save_file({"tokens": torch.tensor(ids), "logits": rounded}, file)
    report = verify_against(folder, Other(str(file)))
    assert report.passed and all(finding.resembles is None for finding in report.findings)
    assert report.findings[1].what == "predictions are those of official"


@pytest.mark.slow
def test_every_failure_that_changes_logits_is_named(
    three_layers: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Alone among all, in logits of 140 tokens computed in one piece."""
    pieces = Pieces(make_plan(three_layers))
    ids = lengths.prompt(pieces.config, 140)
    made: dict[str, dict[str, torch.Tensor]] = {}

    def once(pieces: Pieces, ids: object, variants: list[Variant], *_: object) -> object:
        """What every failure makes of the text is the same each time."""
        base = variants[0].numerics.name
        if base not in made:
            made[base] = dict(logits(pieces, ids, variants, range(140)))  # type: ignore[arg-type]
        return iter(made[base].items())

    monkeypatch.setattr(explaining, "logits", once)
    sound = {
        base.name: computed(three_layers, ids, numerics=base).double().log_softmax(-1)
        for base in explaining.BASES
    }
    unseen = set()
    for name in FAULTS:
        other = whole("other", "", ids, range(140), computed(three_layers, ids, name))
        found = explaining.suspects(pieces, other, sound, 0.1, lambda done, total: None)
        if float(divergences(other, sound["exact"]).max()) <= NOISE:
            unseen.add(name)
            assert found == []
        else:
            assert [suspect.fault.name for suspect in found] == [name]
    assert unseen == {
        "overlap-lost-between-chunks",
        "indexer-without-hadamard",
        "shared-expert-not-clamped",
        "routed-experts-not-clamped",
        "clamp-after-quantisation",
        "naive-softplus",
        "eps-in-post",
        "sinkhorn-of-other-axis",  # converged in this model: the same matrix
        "mtp-of-collapsed-stream",
    }


def test_other_weights_have_no_name(folder: Path, ids: list[int], tmp_path: Path) -> None:
    file = tmp_path / "other.safetensors"
    found = computed(folder, ids)
    save_file({"tokens": torch.tensor(ids), "logits": found + torch.randn_like(found)}, file)
    (finding,) = verify_against(folder, Other(str(file))).findings
    assert finding.severity == "error" and finding.resembles is None
    assert "from 1 tokens on" in finding.where and "another checkpoint" in (finding.hint or "")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokens": torch.tensor([1.0])}, "no integers called tokens"),
        ({"tokens": torch.tensor([0, 9999])}, "tokens that this model does not"),
        ({"logits": torch.zeros(2, 7)}, "logits of 7 tokens"),
        ({"logits": torch.zeros(3, 7)}, r"logits is \[3, 7\], not \[2, ...\]"),
        ({"positions": torch.tensor([1, 0])}, "positions are not rising"),
        ({"logits": torch.full((2, 274), torch.nan)}, "NaN"),
    ],
)
def test_a_file_of_something_else_is_refused(
    folder: Path, tmp_path: Path, change: dict[str, torch.Tensor], message: str
) -> None:
    file = tmp_path / "other.safetensors"
    save_file({"tokens": torch.tensor([0, 1]), "logits": torch.zeros(2, 274)} | change, file)
    with pytest.raises(UsageError, match=message):
        verify_against(folder, Other(str(file)))


def test_the_command_compares_with_what_another_machine_wrote(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, html = tmp_path / "l.safetensors", tmp_path / "report.html"
    (tmp_path / "ids").write_text("0 5 7 9 100 101", encoding="utf-8")
    write = ["logits", str(folder), "--tokens", str(tmp_path / "ids"), "--out", str(file)]
    assert main([*write, "--numerics", "official"]) == 0
    verify = ["verify", str(folder), "--against", str(file)]
    assert main([*verify, "--html", str(html)]) == 0
    shown = capsys.readouterr().out
    assert "mean KL" in shown and "predictions are those of official" in shown
    assert "Predictions, place by place" in html.read_text(encoding="utf-8")
    assert main([*verify, "--json"]) == 0
    theirs, _, _ = json.loads(capsys.readouterr().out)["predictions"]
    assert [row["position"] for row in theirs["positions"]] == list(range(6))
    assert main([*verify, "--pack", "x"]) == 2
    assert main(["verify", str(folder), "--against", "x.bin"]) == 2


# transformers.


def test_transformers_has_no_engram(tmp_path: Path) -> None:
    checkpoint.synth(with_engram(draw_config(3, FLASH_LIKE), 3), tmp_path / "model")
    with pytest.raises(UsageError, match="has no Engram"):
        verify_against(tmp_path / "model", Other("transformers"))


def test_without_transformers_it_says_so(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UsageError, match="not installed"):
        verify_against(folder, Other("transformers"))


# Servers.


def test_our_server_agrees_with_itself(folder: Path) -> None:
    engine = Engine(load(folder, "exact"))
    try:
        with served(engine) as base:
            report = verify_against(folder, Other(base, served=engine.model.name, length=T))
    finally:
        engine.close()
    assert report.passed, report.findings
    theirs = report.drifts[0]
    config = make_plan(folder).config
    assert {size - 1 for size in lengths.prefixes(config, T)} >= set(theirs.positions)
    assert len(theirs.positions) >= 8 and max(theirs.divergence) < 1e-6
    assert "prompts as text" in report.checks[0].what


class Elsewhere(BaseHTTPRequestHandler):
    """A server of another engine that has a failure: what it answers is what the reference computes
    under it, in the form of `kind`."""

    ids: list[int]
    rows: torch.Tensor
    kind: str
    size: int

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        status, answer = self.answer(body)
        data = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def answer(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        path, prompt = self.path.removeprefix("/v1"), body["prompt"]
        if self.kind == "native" and (path, self.path) != ("/completion", "/completion"):
            return 404, {"error": {"code": 404, "message": "File Not Found"}}
        if self.kind == "silent":
            return 200, {"choices": [{"text": "x", "logprobs": None}], "usage": {}}
        if body.get("echo") and self.kind != "vllm":
            return 500, {"error": {"code": 500, "message": "Only no echo is supported"}}
        assert prompt == self.ids[: len(prompt)]
        rows = self.rows[: len(prompt)]
        if self.kind == "vllm":
            return 200, self.echoed(prompt, rows)
        top = rows[-1].topk(20 if path == "/completions" else 100)
        listed = [
            {"id": token, "token": "?", "bytes": [63], "logprob": value}
            for token, value in zip(top.indices.tolist(), top.values.tolist(), strict=True)
        ]
        content = [{**listed[0], "top_logprobs": listed}]
        if self.kind == "native":
            return 200, {
                "content": "?",
                "tokens_evaluated": len(prompt),
                "completion_probabilities": content,
            }
        usage = {"prompt_tokens": len(prompt) + self.size}
        return 200, {"choices": [{"text": "?", "logprobs": {"content": content}}], "usage": usage}

    def echoed(self, prompt: list[int], rows: torch.Tensor) -> dict[str, Any]:
        """vLLM's answer: the prompt's tokens, of which the first has no numbers, and one more."""
        drawn = int(rows[-1].argmax())
        names = [f"token_id:{token}" for token in [*prompt, drawn]]
        tops = [row.topk(20) for row in rows]
        alternatives = [
            {f"token_id:{i}": v for i, v in zip(t.indices.tolist(), t.values.tolist(), strict=True)}
            for t in tops
        ]
        own = [float(row[token]) for row, token in zip(rows, [*prompt[1:], drawn], strict=True)]
        logprobs = {
            "tokens": names,
            "token_logprobs": [None, *own],
            "top_logprobs": [None, *alternatives],
        }
        usage = {"prompt_tokens": len(prompt)}
        return {"choices": [{"text": "?", "logprobs": logprobs}], "usage": usage}

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def elsewhere(folder: Path, kind: str, fault: str | None = None, size: int = 0) -> Iterator[str]:
    ids = texts.draw(Tokenizer.from_folder(folder), T)
    rows = computed(folder, ids, fault).log_softmax(-1)
    handler = type("Handler", (Elsewhere,), dict(ids=ids, rows=rows, kind=kind, size=size))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask a failing server once."""
    made = servers.Client
    monkeypatch.setattr(servers, "Client", lambda *args, retries: made(*args, retries=0))


@pytest.mark.parametrize("kind", ["vllm", "llama", "native"])
def test_a_failure_behind_a_url_is_named(folder: Path, kind: str, impatient: None) -> None:
    with elsewhere(folder, kind, "no-derotation") as url:
        report = verify_against(folder, Other(url, length=T))
    (finding,) = report.findings
    assert finding.severity == "error"
    assert finding.resembles == "no-derotation (explains 100 %)"
    how = report.checks[0].what
    assert how.startswith("teacher-forced: ") == (kind == "vllm")
    assert ("/completion," in how) == (kind == "native")
    prefixes = lengths.prefixes(make_plan(folder).config, T)
    assert len(report.drifts[0].positions) == (T if kind == "vllm" else len(prefixes))


def test_a_server_that_says_nothing_is_told(folder: Path, impatient: None) -> None:
    with (
        elsewhere(folder, "silent") as url,
        pytest.raises(RequestError, match="gives no log-probabilities"),
    ):
        verify_against(folder, Other(url, length=T))


def test_a_server_that_reads_other_tokens_is_told(folder: Path, impatient: None) -> None:
    with (
        elsewhere(folder, "llama", size=3) as url,
        pytest.raises(RequestError, match="reads 6 tokens where there are 3"),
    ):
        verify_against(folder, Other(url, length=T))


@pytest.mark.parametrize("name", ["nano", "bytes"])
def test_texts_encode_to_their_ids(name: str, folder: Path) -> None:
    tokenizer = Tokenizer.from_folder(locate.folder("nano") if name == "nano" else folder)
    ids = texts.draw(tokenizer, 100)
    assert len(ids) == 100 and ids == texts.draw(tokenizer, 150)[:100]
    assert len(set(ids)) > 40
    for size in (2, 3, 50, 100):
        assert tokenizer.encode(tokenizer.decode(ids[1:size])) == ids[1:size]


# Numbers.


def test_what_is_reported_bounds_what_is_not() -> None:
    exact = torch.randn(5, 60).double().log_softmax(-1)
    other = whole("other", "", range(5), range(5), torch.randn(5, 60))
    full = divergences(other, exact)
    torch.testing.assert_close(
        full, torch.nn.functional.kl_div(other.logprobs_PK, exact.exp(), reduction="none").sum(1)
    )
    everything = torch.arange(60).expand(5, -1)
    all_of = Predictions("other", "", other.ids, other.positions, other.logprobs_PK, everything)
    torch.testing.assert_close(divergences(all_of, exact), full, atol=1e-5, rtol=0)
    top = other.logprobs_PK.topk(10)
    some = Predictions("other", "", other.ids, other.positions, top.values, top.indices)
    part = divergences(some, exact)
    assert bool((part < full).all()) and bool((part > 0).all())
    same = seen_as(some, "exact", exact)
    found = drift(same, exact)
    assert max(found.divergence) < 1e-12 and max(found.logprob) == 0.0


def test_rows_may_have_fewer_tokens() -> None:
    exact = torch.tensor([[0.5, 0.25, 0.125, 0.125]] * 2).double().log()
    rows = {3: {0: -0.5, 2: -3.0}, 1: {1: -1.0}}
    other = likeliest("other", "", range(4), rows)
    assert other.positions == (1, 3) and other.tokens_PK is not None
    assert other.tokens_PK.tolist() == [[1, -1], [0, 2]]
    found = drift(other, exact)
    assert found.top == (False, True) and found.overlap == (0.0, 0.5)
    rest = 0.375 * np.log(0.375 / (1 - np.exp(-0.5) - np.exp(-3)))
    wanted = 0.5 * (np.log(0.5) + 0.5) + 0.125 * (np.log(0.125) + 3) + rest
    assert found.divergence[1] == pytest.approx(wanted)
    assert found.logprob[1] == pytest.approx(3 + np.log(0.125))


def test_failures_are_tried_on_the_first_places_that_differ() -> None:
    other = whole("other", "", range(600), range(0, 600, 2), torch.randn(300, 5))
    late = torch.arange(300) >= 200
    count = explaining._rows(other.positions, late)
    assert count == 208 and bool(late[count - explaining.PLACES])
    part = first_rows(other, count)
    assert len(part.logprobs_PK) == len(part.positions) == count
    assert explaining._rows(other.positions, ~late) == explaining.TOKENS // 2
    few = torch.arange(300) == 299
    assert explaining._rows(other.positions, few) == 300


def test_prefixes_are_at_what_begins() -> None:
    flash = preset("flash")
    chosen = lengths.prefixes(flash, lengths.length_of_prefixes(flash))
    assert chosen == [3, 4, 5, 127, 128, 129, 255, 256, 257, 512, 2051, 2052, 2053]
    assert lengths.prefixes(flash, 4) == [3, 4]


def test_a_page_shows_predictions(folder: Path, tmp_path: Path, ids: list[int]) -> None:
    file = tmp_path / "other.safetensors"
    save_file({"tokens": torch.tensor(ids), "logits": torch.zeros(T, 274)}, file)
    report = verify_against(folder, Other(str(file), thorough=False))
    assert "divergence from exact" in page(report) and not report.passed
