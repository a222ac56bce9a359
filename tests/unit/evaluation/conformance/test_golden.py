"""Golden packs: what is stored is what is computed, and what differs is found."""

from __future__ import annotations

import json
import runpy
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.parity.models import draw_config, with_engram

from dsv4 import checkpoint
from dsv4.cli.main import main
from dsv4.config import CSA, SWA
from dsv4.errors import CheckpointError
from dsv4.evaluation.conformance.faults import FAULTS
from dsv4.evaluation.conformance.golden.checking import STORED, check_pack
from dsv4.evaluation.conformance.golden.making import make_pack
from dsv4.evaluation.conformance.golden.pack import digest, read, write
from dsv4.evaluation.conformance.variant import Variant
from dsv4.numerics.policy import EXACT

ROOT = Path(__file__).resolve().parents[4]
TINY = ROOT / "tests" / "parity" / "data" / "tiny-flash"
PACK = TINY / "pack"
EXAMPLES = ROOT / "docs" / "examples"


def copied(tmp_path: Path) -> Path:
    shutil.copytree(PACK, tmp_path / "pack")
    return tmp_path / "pack"


def changed(folder: Path, name: str, tensor: torch.Tensor) -> None:
    """Let a pack, its hashes included, hold another tensor."""
    path = folder / "tensors.safetensors"
    save_file(load_file(path) | {name: tensor}, path)
    manifest = json.loads((folder / "pack.json").read_text(encoding="utf-8"))
    manifest["files"][path.name] = digest(path)
    (folder / "pack.json").write_text(json.dumps(manifest), encoding="utf-8")


def test_the_reference_still_computes_what_is_stored() -> None:
    report = check_pack(TINY, PACK)
    assert report.passed and report.findings == []
    layers = {row.layer for row in report.comparisons}
    assert layers == {"layers.0", "layers.2", "layers.3", "mtp.0", "head"}
    exact = [row for row in report.comparisons if row.variant == "exact"]
    assert {row.part for row in exact} >= {"selection", "entries", "layer", "prediction", "logits"}
    assert max(row.relative for row in exact) < 1e-5
    rounded = [row.relative for row in report.comparisons if row.variant == "official"]
    assert max(rounded) > 0.01  # policies are not all the same


def test_the_pack_is_small_and_says_where_it_is_from() -> None:
    assert sum(path.stat().st_size for path in PACK.iterdir()) < 2 << 20
    pack = read(PACK)
    assert pack.about["model"]["identity"] == checkpoint.identity(TINY).hex()
    assert pack.about["model"]["sha256"]["config.json"] == digest(TINY / "config.json")
    for entry in pack.entries:
        tensor = pack.tensors[entry.name]
        assert entry.dtype == str(tensor.dtype).removeprefix("torch.")
        assert entry.positions is None or len(entry.positions) == len(tensor)
        if entry.role == "output" and entry.part != "choice, large":
            assert entry.tolerance, entry.name
            assert all(v["measured"] <= v["allowed"] for v in entry.tolerance.values())
    attention, _ = pack.of("layers.2", "output")["attention"]
    assert (attention.kind, attention.module) == ("CSA", "attn")
    assert {2, 3, 126, 127, 128, 130} <= set(attention.positions or ())


@pytest.mark.parametrize(
    ("name", "where"),
    [
        ("no-derotation", "layers.0 (SWA), attention"),
        ("entries-at-index", "layers.2 (CSA), entries"),
        ("comb-not-transposed", "layers.0 (SWA), layer"),
        ("routed-experts-not-clamped", "layers.0 (SWA), experts, large"),
        ("mtp-of-collapsed-stream", "mtp.0 (MTP), prediction"),
    ],
)
def test_what_is_wrong_is_found(name: str, where: str) -> None:
    wrong = Variant("exact", EXACT, ((STORED, "float32"),), FAULTS[name].planted)
    (finding,) = check_pack(TINY, PACK, [wrong]).findings
    assert finding.where == where and finding.severity == "error"


def test_a_pack_of_a_model_with_engrams(tmp_path: Path) -> None:
    config = with_engram(draw_config(3, (SWA, CSA, CSA)), 3, conv=True)
    checkpoint.synth(config, tmp_path / "model")
    pack = make_pack(tmp_path / "model", length=12)
    # Both CSA layers are kept: one of them has a memory.
    assert pack.layers == ["layers.0", "layers.1", "layers.2", "mtp.0", "head"]
    write(pack, tmp_path / "pack")
    report = check_pack(tmp_path / "model", tmp_path / "pack")
    assert report.passed and report.findings == []
    changed(tmp_path / "pack", "layers.2.tokens", torch.zeros(12, dtype=torch.int32))
    (finding, *_) = check_pack(tmp_path / "model", tmp_path / "pack").findings
    assert "layers.2" in finding.where


def test_the_command_makes_and_checks(
    three_layers: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "pack"
    make = ["verify", str(three_layers), "--make-pack", str(folder)]
    assert main([*make, "--layers", "1", "--length", "9"]) == 0
    assert "tensors of layers.0, " in capsys.readouterr().err
    assert main(make) == 2  # it is not empty
    assert main(["verify", str(three_layers), "--pack", str(folder), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["passed"] and report["facts"]["pack"].endswith("of layers.0")
    name = "layers.0.output.attention"
    changed(folder, name, 1.01 * read(folder).tensors[name])
    assert main(["verify", str(three_layers), "--pack", str(folder)]) == 1
    assert "layers.0 (SWA), attention" in capsys.readouterr().out


def test_a_damaged_pack_is_refused(tmp_path: Path) -> None:
    folder = copied(tmp_path)
    with (folder / "tensors.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x7f")
    with pytest.raises(CheckpointError, match=r"is not the file that pack\.json describes"):
        read(folder)
    (folder / "pack.json").write_text("{}", encoding="utf-8")
    with pytest.raises(CheckpointError, match="no golden pack"):
        read(folder)


def test_a_pack_of_another_model_is_refused(three_layers: Path) -> None:
    with pytest.raises(CheckpointError, match=r"layers\.2 is CSA in the pack, HCA in this model"):
        check_pack(three_layers, PACK, [Variant("exact", EXACT, ((STORED, "float32"),))])


def test_other_weights_are_noted(damaged: object, three_layers: Path, tmp_path: Path) -> None:
    write(make_pack(three_layers, layers=1, length=9), tmp_path / "pack")
    folder = damaged("layers.0.ffn.gate.weight", lambda x: x * 1.5)  # type: ignore[operator]
    report = check_pack(folder, tmp_path / "pack")
    note, *errors = report.findings
    assert note.severity == "note" and "other files" in note.what
    assert {error.where for error in errors} == {"layers.0 (SWA), affinities"}


@pytest.mark.parametrize("reader", ["pack_torch.py", "pack_numpy.py"])
def test_the_example_readers_run(
    reader: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copied(tmp_path)
    monkeypatch.setattr(sys, "argv", [reader, str(folder), str(TINY)])
    runpy.run_path(str(EXAMPLES / reader))
    assert capsys.readouterr().out.count("affinities") == 4
    name = "layers.3.output.affinities"
    changed(folder, name, read(folder).tensors[name].neg())
    with pytest.raises(SystemExit, match=r"layers\.3 \(HCA\), ffn\.gate is wrong"):
        runpy.run_path(str(EXAMPLES / reader))
