"""`dsv4 verify` of a folder: what it says, when it fails, what it holds in memory."""

from __future__ import annotations

import dataclasses
import gc
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from tests.parity.models import draw_config, with_engram

from dsv4 import checkpoint, ops
from dsv4.checkpoint.plan import make_plan
from dsv4.cli.main import main
from dsv4.config import CSA, SWA
from dsv4.evaluation.conformance import lengths
from dsv4.evaluation.conformance.comparison import Comparison, allowed, measure, overall, relative
from dsv4.evaluation.conformance.faults import FAULTS
from dsv4.evaluation.conformance.page import page
from dsv4.evaluation.conformance.pieces import Pieces
from dsv4.evaluation.conformance.variant import OP_BY_OP, TRUTH, Variant, usual
from dsv4.evaluation.conformance.verify import Options, verify_folder
from dsv4.evaluation.conformance.walk import Walk
from dsv4.model.transformer import Transformer
from dsv4.numerics.policy import EXACT, FAST, OFFICIAL
from dsv4.ops.cpu import kernels
from dsv4.presets import preset

SHORT = Options(length=9)
ONE = Options(length=9, layers=1)


def test_a_sound_folder_passes(three_layers: Path) -> None:
    report = verify_folder(three_layers, Options(length=131))
    assert report.passed and report.findings == []
    assert [check.name for check in report.checks] == [
        "headers",
        "vocabulary",
        "contents",
        "numerics",
    ]
    official = [row for row in report.comparisons if row.variant == "official"]
    assert {row.layer for row in official} == {"layers.0", "layers.1", "layers.2", "head", "mtp.0"}
    judged = [row for row in official if row.allowed is not None]
    assert len(judged) > 30 and all(row.relative > 0 for row in judged if row.part == "attention")


def test_the_walk_goes_where_the_model_goes(three_layers: Path) -> None:
    model = checkpoint.load(three_layers)
    ids = lengths.prompt(model.config, 40)
    pieces, seen = Pieces(make_plan(three_layers)), {}

    def visit(layer: object, rows: object) -> None:
        seen[layer.name] = layer.computed[TRUTH]  # type: ignore[attr-defined]

    Walk(pieces, ids, [], [], 3, visit).run()
    with torch.no_grad():
        output = model(torch.tensor([ids]))
        torch.testing.assert_close(seen["layers.2"]["layer"], output.streams_BTSD[0].flatten(1))
        next_ids = torch.tensor([ids[1:]])
        predicted = model.predict_next(output.streams_BTSD[:, :-1], next_ids)
    torch.testing.assert_close(seen["mtp.0"]["prediction"], predicted.streams_BTSD[0].flatten(1))


def test_logits_are_those_of_the_model(three_layers: Path) -> None:
    model, pieces = checkpoint.load(three_layers), Pieces(make_plan(three_layers))
    ids = torch.tensor([lengths.prompt(model.config, 20)])
    with torch.no_grad():
        output = model(ids)
        logits = pieces.head()(output.streams_BTSD, EXACT)
    torch.testing.assert_close(logits, output.logits_BTV)


@pytest.mark.parametrize("conv", [False, True])
def test_a_model_with_engrams(tmp_path: Path, conv: bool) -> None:
    config = with_engram(draw_config(3, (SWA, CSA, CSA)), 3, conv=conv)
    checkpoint.synth(config, tmp_path / "model")
    report = verify_folder(tmp_path / "model", SHORT)
    assert [finding for finding in report.findings if finding.severity == "error"] == []
    assert len(report.comparisons) > 30


def test_a_folder_in_the_transformers_layout(three_layers: Path, tmp_path: Path) -> None:
    checkpoint.export_transformers(checkpoint.load(three_layers), tmp_path / "theirs")
    report = verify_folder(tmp_path / "theirs", ONE)
    assert report.passed and report.facts["layout"] == "transformers"
    assert {row.variant for row in report.comparisons} >= {"official", "fast"}


@pytest.mark.skipif(kernels is None, reason="no native kernels here")
def test_wrong_kernels_are_found_and_named(three_layers: Path) -> None:
    # Kernels cannot be changed from here, so their definition is, op by op.
    variants = [variant for variant in usual() if variant.name != "fast"]
    wrong = Variant(
        "fast", FAST, ((TRUTH, "fast"), (OP_BY_OP, "kernels")), FAULTS["no-derotation"].planted
    )
    report = verify_folder(three_layers, ONE, [*variants, wrong])
    (finding,) = report.findings
    assert not report.passed and finding.where == "layers.0 (SWA), attention"
    assert finding.resembles == "no-derotation (explains 100 %)"
    assert finding.what.startswith("fast is ") and "from position 1 on" in finding.what


def test_one_of_two_failures_explains_a_part(three_layers: Path) -> None:
    from contextlib import ExitStack, contextmanager

    @contextmanager
    def both():  # type: ignore[no-untyped-def]
        with ExitStack() as stack:
            for name in ("split-half-rope", "sigmoid-scores"):
                stack.enter_context(FAULTS[name].planted())
            yield

    variant = Variant("other", EXACT, ((TRUTH, "float32"),), both)
    (finding,) = verify_folder(three_layers, ONE, [variant]).findings
    assert finding.where == "layers.0 (SWA), window" and finding.resembles is not None
    name, share = re.fullmatch(r"([a-z-]+) \(explains (\d+) %\)", finding.resembles).groups()  # type: ignore[union-attr]
    assert name in ("split-half-rope", "sigmoid-scores") and 50 <= int(share) < 95


def test_weights_that_overflow_are_an_error(damaged: Callable[..., Path]) -> None:
    def change(x: torch.Tensor) -> torch.Tensor:
        x.view(torch.uint8).fill_(254)
        return x

    report = verify_folder(damaged("layers.1.ffn.shared_experts.w2.scale", change), SHORT)
    assert not report.passed
    assert any("not finite" in finding.what for finding in report.findings)


# Lengths.


def test_lengths_are_chosen_around_what_begins() -> None:
    flash = preset("flash")
    length = lengths.default_length(flash)
    assert length == 2055 and length % 4 == 3
    chosen = lengths.boundaries(flash, length)
    assert {3, 7, 127, 128, 129, 2051, 2052, 2053, 2055} <= set(chosen)
    assert lengths.onset(flash) == 2052 and lengths.onset(preset("pro")) == 4100
    assert lengths.boundaries(flash, 1) == [1]
    ids = lengths.prompt(flash, 100)
    assert ids == lengths.prompt(flash, 300)[:100] and max(ids) < flash.vocab_size


# Differences.


def test_differences_by_hand() -> None:
    a, b = torch.tensor([[3.0, 4.0], [0.0, 2.0]]), torch.tensor([[3.0, 0.0], [0.0, 2.0]])
    assert relative(a, b).tolist() == pytest.approx([4 / 3, 0])
    assert overall(a, b) == pytest.approx(4 / 13**0.5)
    broken = torch.tensor([[torch.nan, 1.0]])
    assert overall(broken, torch.ones(1, 2)) == torch.inf
    assert overall(broken, broken) == 0
    assert overall(torch.tensor([[torch.inf]]), torch.tensor([[1.0]])) == torch.inf


def test_fast_may_be_twice_as_far_as_official_but_not_beyond_its_bound() -> None:
    assert allowed("attention", "fast", 0.03) == 0.06
    assert allowed("attention", "fast", 0.08) == allowed("attention", "rounded") == 0.1
    assert allowed("choice", "fast") == allowed("choice", "rounded") == 0.05
    assert allowed("choice", "rounded", hashed=True) == 0
    row = Comparison("l", "SWA", "layer", "a", "b", float("nan"), 0.0, 0, None, 0.1)
    assert not row.ok


def test_choices_are_counted() -> None:
    a = torch.tensor([[True, True, False, False], [False, True, False, True]])
    b = torch.tensor([[True, False, True, False], [False, True, False, True]])
    assert measure("selection", a, b) == 0.25
    assert measure("selection", b, b) == 0


# Memory.


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_one_layer_is_in_memory_at_a_time(tmp_path: Path) -> None:
    config = dataclasses.replace(
        preset("tiny"),
        hidden_size=512,
        moe_intermediate_size=1024,
        n_routed_experts=16,
        num_hidden_layers=4,
        compress_ratios=(SWA,) * 5,
        num_hash_layers=1,
    )
    checkpoint.synth(config, tmp_path / "wide")
    plan = make_plan(tmp_path / "wide")
    sizes = {
        layer: sum(
            s.nbytes for s in plan.sources if s.parameter.name.startswith(f"layers.{layer}.")
        )
        for layer in range(4)
    }
    assert min(sizes.values()) > 12 << 20

    def mapped() -> int:
        status = Path("/proc/self/status").read_text(encoding="ascii")
        return int(re.findall(r"RssFile:\s+(\d+) kB", status)[0]) << 10

    gc.collect()
    before, most = mapped(), []
    Walk(
        Pieces(plan),
        lengths.prompt(config, 64),  # enough tokens for all experts
        [
            Variant("official", OFFICIAL, ((TRUTH, "rounded"),)),
            Variant("fast", FAST, ((TRUTH, "fast"),)),
        ],
        [64],
        4,
        lambda layer, rows: most.append(mapped() - before),
    ).run()
    assert len(most) == 5  # the MTP block too
    assert max(sizes.values()) / 2 < max(most) < 1.5 * max(sizes.values()) + (4 << 20)


# The command.


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    code = main(["verify", *arguments, "--threads", "1"])
    return code, capsys.readouterr().out


def test_headers_only(three_layers: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out = run(capsys, str(three_layers), "--headers-only")
    assert code == 0 and "passed: 0 errors, 0 warnings" in out
    assert "numerics" not in out and "contents" not in out


def test_json(three_layers: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out = run(capsys, str(three_layers), "--json", "--length", "9", "--layers", "1")
    report = json.loads(out)
    assert code == 0 and report["passed"] is True
    assert {row["layer"] for row in report["comparisons"]} == {"layers.0"}
    assert report["facts"]["layers"].startswith("3: 1 SWA, 1 CSA, 1 HCA")


def test_a_damaged_folder(damaged: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    folder = damaged("layers.2.attn.wq_a.weight", torch.zeros_like)
    code, out = run(capsys, str(folder))
    assert code == 1
    assert "error: layers.2.attn.wq_a.weight: all its numbers are zero" in out
    assert "numerics" not in out


def test_a_folder_that_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, str(tmp_path))[0] == 4


class Page(HTMLParser):
    """Counts elements, and keeps what would be fetched."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: dict[str, int] = {}
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] = self.tags.get(tag, 0) + 1
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]


def test_the_page_stands_alone(
    three_layers: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "report.html"
    assert run(capsys, str(three_layers), "--length", "9", "--html", str(path))[0] == 0
    text = path.read_text(encoding="utf-8")
    found = Page()
    found.feed(text)
    assert found.links == [] and "script" not in found.tags
    assert found.tags["svg"] >= 8 and found.tags["polyline"] > 20
    assert "<span class=passed>passed</span>" in text


def test_a_page_shows_what_it_was_given_as_text(damaged: Callable[..., Path]) -> None:
    report = verify_folder(damaged(config={"compress_ratios": [0, 128, 128, 0]}), SHORT)
    report.subject = "<img src=x>"
    text = page(report)
    assert "&lt;img src=x&gt;" in text and "<img" not in text
    assert "<span class=failed>failed</span>" in text


def test_nothing_is_changed_by_a_run(three_layers: Path) -> None:
    bound = {op.op: op.backend for op in ops.bindings()}
    verify_folder(three_layers, Options(length=9, layers=1))
    assert {op.op: op.backend for op in ops.bindings()} == bound
    assert Transformer(preset("tiny")).layers[0].attn.observer is None
