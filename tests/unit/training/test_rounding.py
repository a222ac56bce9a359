"""Quantisation-aware training: rounded weights inside, masters outside."""

from dataclasses import replace

import pytest
import torch

from dsv4 import checkpoint
from dsv4.model.transformer import Transformer
from dsv4.model.weights import get_weight, init_weights
from dsv4.numerics.quantized import FP4, FP8, quantize
from dsv4.presets import preset
from dsv4.training.rounding import released_formats, rounded_weights

CONFIG = replace(preset("tiny"), vocab_size=64, num_hidden_layers=3, compress_ratios=(0, 4, 128, 0))
EXPERT = "layers.1.ffn.experts.3.w1.weight"


@pytest.fixture
def model():
    model = Transformer(CONFIG)
    init_weights(model, 0)
    return model


def test_formats_follow_the_released_layout():
    formats = released_formats(CONFIG)
    assert formats[EXPERT] == FP4
    assert formats["layers.0.attn.wq_a.weight"] == FP8
    assert formats["layers.0.ffn.shared_experts.w2.weight"] == FP8
    assert {"embed.weight", "head.weight", "layers.2.ffn.gate.weight"}.isdisjoint(formats)


def test_weights_are_rounded_inside_and_restored_after(model):
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    formats = released_formats(CONFIG)
    with rounded_weights(model, formats):
        inside = {name: p.detach().clone() for name, p in model.named_parameters()}
    assert not torch.equal(inside[EXPERT], before[EXPERT])
    for name, form in formats.items():
        assert torch.equal(inside[name], quantize(before[name], form).dequantize()), name
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]), name


def test_gradients_pass_straight_to_the_masters(model):
    ids = torch.arange(3, 19)[None]
    with rounded_weights(model, released_formats(CONFIG)):
        assert torch.is_grad_enabled()
        model(ids).logits_BTV.logsumexp(-1).sum().backward()
    through = get_weight(model, EXPERT).grad
    assert through is not None and through.abs().sum() > 0


def test_training_sees_what_the_exported_model_computes(model, tmp_path):
    """Logits with rounded weights are those of the exported folder (up to bf16 of the rest)."""
    for name, parameter in model.named_parameters():
        if name not in released_formats(CONFIG):
            parameter.data = parameter.data.bfloat16().float()
    ids = torch.arange(3, 35)[None]
    checkpoint.export_released(model, tmp_path / "model")
    loaded = checkpoint.load(tmp_path / "model")
    with torch.no_grad(), rounded_weights(model, released_formats(CONFIG)):
        ours = model(ids).logits_BTV
        theirs = loaded(ids).logits_BTV
        plain_error = 1.0
    error = (ours - theirs).norm() / theirs.norm()
    assert error < 1e-5 < plain_error
    with torch.no_grad():
        plain_error = (model(ids).logits_BTV - theirs).norm() / theirs.norm()
    assert plain_error > 100 * error
