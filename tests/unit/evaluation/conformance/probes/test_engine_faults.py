"""Failures that are planted into our own engine are found by the probes that are there for them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from tests.conftest import byte_vocabulary
from tests.engine_faults import ENGINE_FAULTS
from tests.parity.models import draw_config, draw_model
from tests.serving import served

import dsv4
from dsv4 import checkpoint
from dsv4.chat.model import Model
from dsv4.config import CSA, HCA, SWA
from dsv4.evaluation.conformance.finding import Report
from dsv4.evaluation.conformance.probes import cached, load, speculation
from dsv4.evaluation.conformance.probes.budget import Budget
from dsv4.evaluation.conformance.probes.catalogue import chosen
from dsv4.evaluation.conformance.probes.run import verify_url
from dsv4.evaluation.conformance.probes.service import Service, find
from dsv4.model.state import State
from dsv4.model.transformer import Transformer
from dsv4.ops.fused import available

DOCS = Path(__file__).parents[5] / "docs" / "verify.md"
BEGIN, END = "<!-- engine faults: begin -->\n", "<!-- engine faults: end -->"
RESEMBLES = {"speculation": "vllm-ascend#9111", "load": "transformers#46003", "cache": "ATOM#1417"}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """One layer of each kind, random weights that tell every context from every other."""
    if not available():
        pytest.skip("no native kernels: other policies promise no equal answers")
    vocabulary = byte_vocabulary()
    size = len(vocabulary["added_tokens"]) + len(vocabulary["model"]["vocab"])
    config = dataclasses.replace(
        draw_config(3, (SWA, CSA, HCA)),
        vocab_size=size,
        hidden_size=64,
        moe_intermediate_size=32,
        num_hash_layers=1,
        sliding_window=16,
        max_position_embeddings=4096,
    )
    folder = tmp_path_factory.mktemp("engine") / "drawn"
    checkpoint.export_released(draw_model(config, 1), folder)
    (folder / "tokenizer.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    return dsv4.load(str(folder), "fast")


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer and shorter questions, as every answer of this model shows a failure, and none about
    values, which it does not find anyway."""
    monkeypatch.setattr(speculation, "CUTS", (5,))
    monkeypatch.setattr(speculation, "ROOM", 12)
    monkeypatch.setattr(load, "QUESTIONS", 4)
    monkeypatch.setattr(load, "ROUNDS", 1)
    monkeypatch.setattr(cached, "LENGTHS", (70, 85, 100))
    monkeypatch.setattr(cached, "_mixed", lambda service: iter(()))


@contextmanager
def service(model: Model) -> Iterator[Service]:
    """A server of the model that guesses, and one that does not."""
    with ExitStack() as servers:
        budget = Budget(60, 1_000_000)
        guessing, plain = (
            Service(*find(servers.enter_context(served(engine)), None, None)[:2], budget)
            for engine in (
                dsv4.Engine(model, speculation="on"),
                dsv4.Engine(model, speculation="off"),
            )
        )
        guessing.run = "20000"  # the same questions each time
        plain.meet()
        guessing.without_speculation = plain.ask
        yield guessing


def probed(model: Model, *probes: str) -> Report:
    with service(model) as made:
        return verify_url(made, chosen(probes))


def test_a_sound_engine_has_no_finding(model: Model) -> None:
    report = probed(model, *RESEMBLES)
    assert report.findings == [] and report.skipped == []


@pytest.mark.parametrize("name", ENGINE_FAULTS)
def test_a_failure_of_an_engine_is_found_and_named(model: Model, name: str) -> None:
    fault = ENGINE_FAULTS[name]
    with fault.planted():
        report = probed(model, fault.probe)
    errors = [finding for finding in report.findings if finding.severity == "error"]
    assert errors, report.checks
    assert all(RESEMBLES[fault.probe] in (finding.resembles or "") for finding in errors)


def test_a_failure_leaves_no_trace() -> None:
    def state() -> list[object]:
        return [*vars(State).values(), *vars(Transformer).values()]

    before = state()
    for fault in ENGINE_FAULTS.values():
        with pytest.raises(ZeroDivisionError), fault.planted():
            raise ZeroDivisionError
    assert all(a is b for a, b in zip(before, state(), strict=True))


def test_the_table_in_the_docs() -> None:
    rows = ["| | failure | | found by |", "|---|---|---|---|"]
    rows += [
        f"| {fault.number} | `{name}` | {fault.title} | `{fault.probe}` |"
        for name, fault in ENGINE_FAULTS.items()
    ]
    table = DOCS.read_text(encoding="utf-8").partition(BEGIN)[2].partition("\n" + END)[0]
    assert table == "\n".join(rows)
