"""Random checkpoints: repeatable, of the right size, and sane enough to compute with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from checkpoint_folders import MICRO, WEIGHTS

from dsv4 import checkpoint
from dsv4.config import ModelConfig
from dsv4.engram import EngramConfig
from dsv4.errors import CheckpointError
from dsv4.model.weights import get_weight, weights
from dsv4.numerics.quantized import QuantizedTensor
from dsv4.presets import preset


def test_a_seed_gives_the_same_file(intact: Path, tmp_path: Path) -> None:
    checkpoint.synth(MICRO, tmp_path / "same", seed=3)
    checkpoint.synth(MICRO, tmp_path / "other", seed=4)
    original = (intact / WEIGHTS).read_bytes()
    assert (tmp_path / "same" / WEIGHTS).read_bytes() == original
    assert (tmp_path / "other" / WEIGHTS).read_bytes() != original


def test_tensors_differ_from_each_other(intact: Path) -> None:
    model = checkpoint.load(intact)
    a, b = (get_weight(model, f"layers.0.ffn.experts.{i}.w1.weight") for i in (0, 1))
    assert isinstance(a, QuantizedTensor) and isinstance(b, QuantizedTensor)
    assert not torch.equal(a.data, b.data)


@pytest.mark.parametrize(
    "config",
    [
        replace(preset("tiny"), engram=EngramConfig((0, 3), 3, 2, 40, 200, 300)),
        replace(preset("tiny"), expert_dtype="fp8", scale_dtype="f32"),
        replace(preset("tiny"), engram=EngramConfig((1,), 2, 4, 32, 97, 512, conv=True)),
    ],
    ids=["instruct", "base", "conv"],
)
def test_sizes_are_those_of_an_initialised_model(config: ModelConfig, tmp_path: Path) -> None:
    checkpoint.synth(config, tmp_path / "out")
    model, report = checkpoint.load_with_report(tmp_path / "out")
    assert report.config == config and report.notes == ()
    for name, weight in weights(model):
        if isinstance(weight, QuantizedTensor):
            values = weight.dequantize()
            assert 0.009 < values.std() < 0.04, name
            assert abs(values.mean()) < 0.1 * values.std(), name
        elif name.endswith(("embed.weight", "gate.weight", "wkv.weight")):
            assert 0.018 < weight.float().std() < 0.022, name
        elif name.endswith("norm.weight"):
            assert 0.9 < weight.float().mean() < 1.1, name
        elif name.endswith("token_map"):
            assert config.engram is not None
            assert weight.unique().numel() == config.engram.compressed_vocab_size
        elif name.endswith("tid2eid"):
            ordered = weight.sort(-1).values
            assert (ordered.diff(dim=-1) > 0).all(), "the experts of a token are distinct"
            assert weight.unique().numel() == config.n_routed_experts
    output = model(torch.randint(config.vocab_size, (1, 200)))
    assert output.logits_BTV.isfinite().all()
    assert 0.01 < output.logits_BTV.std() < 10
    assert output.streams_BTSD.abs().max() < 1000


def test_long_tensors_are_made_in_pieces(
    intact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pieces shorter than a tensor fit together (here an odd number of elements each)."""
    from dsv4.checkpoint import synthetic

    monkeypatch.setattr(synthetic, "_CHUNK", 777)
    checkpoint.synth(MICRO, tmp_path / "out", seed=3)
    model = checkpoint.load(tmp_path / "out")
    assert (tmp_path / "out" / WEIGHTS).stat().st_size == (intact / WEIGHTS).stat().st_size
    assert model(torch.arange(9)[None]).logits_BTV.isfinite().all()


def test_a_folder_with_a_model_is_kept(intact: Path) -> None:
    with pytest.raises(CheckpointError, match="already holds a model"):
        checkpoint.synth(MICRO, intact)
