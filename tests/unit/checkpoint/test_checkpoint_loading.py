"""Folders that load: what they become, what is said about them, where their weights live."""

from __future__ import annotations

import logging
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from checkpoint_folders import MICRO, WEIGHTS, edit_config, edit_header, edit_tensors, same_weights
from torch import Tensor

from dsv4 import checkpoint
from dsv4.checkpoint.folder import INDEX_NAME
from dsv4.model import cost
from dsv4.model.weights import get_weight, weights
from dsv4.numerics.quantized import FP4, FP8, FP8_F32, QuantizedTensor


def test_formats_and_values_are_those_of_the_files(intact: Path) -> None:
    model, report = checkpoint.load_with_report(intact)
    assert report.layout == "released" and report.notes == ()
    assert report.config == MICRO == model.config
    assert not model.training
    dense = get_weight(model, "layers.1.attn.wq_a.weight")
    expert = get_weight(model, "mtp.0.ffn.experts.2.w2.weight")
    assert isinstance(dense, QuantizedTensor) and dense.format == FP8
    assert isinstance(expert, QuantizedTensor) and expert.format == FP4
    table = get_weight(model, "layers.0.ffn.gate.tid2eid")
    assert isinstance(table, Tensor) and table.dtype == torch.int64
    assert all(not w.is_meta for _, w in weights(model) if isinstance(w, Tensor))
    logits = model(torch.arange(20)[None]).logits_BTV
    assert logits.shape == (1, 20, 40) and logits.isfinite().all()


def test_weights_are_views_of_the_file(folder: Path) -> None:
    """A byte changed on disk after loading shows: nothing was copied."""
    model = checkpoint.load(folder)
    weight = get_weight(model, "layers.1.attn.wq_a.weight")
    assert isinstance(weight, QuantizedTensor)
    raw = (folder / WEIGHTS).read_bytes()
    own = weight.data.view(torch.uint8).numpy().tobytes()
    place = raw.index(own)
    with (folder / WEIGHTS).open("r+b") as file:
        file.seek(place)
        file.write(bytes([own[0] ^ 1]))
    assert weight.data.view(torch.uint8)[0, 0] == own[0] ^ 1


def test_writing_to_a_weight_never_reaches_the_file(folder: Path) -> None:
    before = (folder / WEIGHTS).read_bytes()
    weight = get_weight(checkpoint.load(folder), "head.weight")
    assert isinstance(weight, Tensor)
    with torch.no_grad():
        weight.zero_()
    assert (folder / WEIGHTS).read_bytes() == before


# Run by itself, so that the memory is this load's: folder, tests, experts of a layer, their width.
LOAD_HOLES = """
import json, re, struct, sys
from dataclasses import replace
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from checkpoint_folders import MICRO
import dsv4
from dsv4.checkpoint import layout, writer
config = replace(MICRO, n_routed_experts=int(sys.argv[3]), moe_intermediate_size=int(sys.argv[4]))
folder = Path(sys.argv[1])
specs, header, position = list(layout.tensors(config)), {}, 0
for spec in sorted(specs, key=lambda spec: -spec.dtype.itemsize):
    header[spec.name] = {"dtype": writer.safetensors_dtype(spec.dtype), "shape": spec.shape,
                         "data_offsets": [position, position + spec.nbytes]}
    position += spec.nbytes
text = json.dumps(header).encode()
text += b" " * (-len(text) % 8)
with (folder / "model.safetensors").open("wb") as file:
    file.write(struct.pack("<Q", len(text)) + text)
    file.truncate(8 + len(text) + position)
(folder / "config.json").write_text(json.dumps(config.to_released()))
def resident():
    lines = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\\s+(\\d+)", lines)[1]) << 10
load = dsv4.load
before = resident()
model = load(folder)
print(position, resident() - before)
"""


@pytest.mark.parametrize(
    ("experts", "width", "stored", "allowed"),
    [(80, 131072, 2 << 30, 100 << 20), (20, 16384, 190 << 20, 100 << 20), (6, 16384, 0, 1 << 30)],
    ids=["far larger than allowed", "377 million parameters", "small enough to expand"],
)
def test_a_load_needs_little_memory(
    tmp_path: Path, experts: int, width: int, stored: int, allowed: int
) -> None:
    """What a user's load adds to the resident set, for files of holes (they cost no disk)."""
    if not Path("/proc/self/status").exists():
        pytest.skip("resident memory is read from /proc")
    here = str(Path(__file__).parent)
    done = subprocess.run(
        [sys.executable, "-c", LOAD_HOLES, str(tmp_path), here, str(experts), str(width)],
        capture_output=True,
        text=True,
        check=True,
    )
    nbytes, extra = map(int, done.stdout.split())
    assert nbytes > stored
    assert extra < allowed


def test_without_an_index_all_model_files_are_read(folder: Path) -> None:
    (folder / INDEX_NAME).unlink()
    whole = checkpoint.load(folder)
    (folder / "other.safetensors").write_bytes(b"not a weight file of this model")
    assert same_weights(checkpoint.load(folder), whole)


def test_base_layout(tmp_path: Path) -> None:
    config = replace(MICRO, expert_dtype="fp8", scale_dtype="f32")
    checkpoint.synth(config, tmp_path / "base")
    model, report = checkpoint.load_with_report(tmp_path / "base")
    assert report.config == config, "scale dtype comes from the tensors"
    formats = {w.format for _, w in weights(model) if isinstance(w, QuantizedTensor)}
    assert formats == {FP8_F32}


@pytest.mark.parametrize("claimed", [None, "fp8"])
def test_expert_dtype_comes_from_the_tensors(folder: Path, claimed: str | None) -> None:
    edit_config(folder, expert_dtype=claimed)
    _, report = checkpoint.load_with_report(folder)
    assert report.config.expert_dtype == "fp4"
    assert len(report.notes) == (claimed is not None)
    assert checkpoint.read_config(folder).expert_dtype == "fp4"


def test_read_config_needs_no_weights(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    (folder / INDEX_NAME).unlink()
    assert checkpoint.read_config(folder) == MICRO


def drop_mtp(tensors: dict[str, Tensor]) -> None:
    for name in [name for name in tensors if name.startswith("mtp.")]:
        del tensors[name]


def test_an_absent_mtp_block_is_said(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    edit_tensors(folder, drop_mtp)
    with caplog.at_level(logging.WARNING, "dsv4.checkpoint"):
        model = checkpoint.load(folder)
    assert "no MTP block" in caplog.text
    assert model.config.num_nextn_predict_layers == 0 and len(model.mtp) == 0
    assert model(torch.arange(9)[None]).logits_BTV.isfinite().all()


def test_an_unannounced_mtp_block_is_ignored_and_said(folder: Path) -> None:
    edit_config(folder, num_nextn_predict_layers=0, compress_ratios=[0, 4, 128])
    model, report = checkpoint.load_with_report(folder)
    assert len(model.mtp) == 0
    assert any("mtp.* tensors ignored" in note for note in report.notes)


def test_dspark_draft_stages_are_ignored_and_said(folder: Path) -> None:
    edit_config(
        folder,
        dspark_block_size=5,
        dspark_target_layer_ids=[0, 1, 2],
        dspark_markov_rank=16,
        dspark_noise_token_id=39,
        compress_ratios=[0, 4, 128, 0, 0, 0],
    )

    def make_stages(tensors: dict[str, Tensor]) -> None:
        drop_mtp(tensors)
        for stage in range(3):
            tensors[f"mtp.{stage}.markov.weight"] = torch.zeros(4, 4)

    edit_tensors(folder, make_stages)
    model, report = checkpoint.load_with_report(folder)
    assert any("3 DSpark draft stages" in note for note in report.notes)
    assert len(model.mtp) == 0
    assert model.config.draft_stages == 3, "prompts of these checkpoints differ"
    assert model.config.num_nextn_predict_layers == 0
    assert checkpoint.read_config(folder) == report.config == model.config
    assert cost.parameters(model.config).mtp == 0, "nothing is counted that is not there"
    (folder / WEIGHTS).unlink()
    (folder / INDEX_NAME).unlink()
    assert checkpoint.read_config(folder) == model.config, "with or without weights"
    assert model(torch.arange(9)[None]).logits_BTV.isfinite().all()


def test_plain_weights_of_any_float_type_load(folder: Path) -> None:
    """A folder somebody dequantised: float matrices without scales."""
    quantised = checkpoint.load(folder)

    def dequantise(tensors: dict[str, Tensor]) -> None:
        for name, weight in weights(quantised):
            if isinstance(weight, QuantizedTensor):
                tensors[name] = weight.dequantize(torch.bfloat16)
                del tensors[name.removesuffix(".weight") + ".scale"]

    edit_tensors(folder, dequantise)
    plain = checkpoint.load(folder)
    ids = torch.arange(30)[None] % 40
    assert torch.equal(plain(ids).logits_BTV, quantised(ids).logits_BTV)


def test_numbers_at_odd_places_load(intact: Path, folder: Path) -> None:
    """safetensors written by others may start a wide number at any byte."""
    edit_header(folder, lambda header: header.update(__metadata__={"pad": "x" * 7}))
    raw = (folder / WEIGHTS).read_bytes()
    assert (8 + int.from_bytes(raw[:8], "little")) % 8, "the data do start at an odd byte"
    assert same_weights(checkpoint.load(folder), checkpoint.load(intact))
