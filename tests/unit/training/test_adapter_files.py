"""Adapters of others as PEFT writes them: how much of the change is added to a weight."""

import json
import math

import pytest
import torch
from safetensors.torch import save_file
from tests.unit.training.small import new_model

from dsv4.model.weights import get_factor, get_weight
from dsv4.training.adapters import CONFIG, WEIGHTS, attach_adapter

NAME = "layers.1.attn.wq_b.weight"
MODULE = "base_model.model.model.layers.1.self_attn.q_b_proj"
RANK, ALPHA = 3, 5.0


def written(folder, outputs, inputs, **config):
    """A folder with an adapter of one matrix, which knows no base; its tensors."""
    rng = torch.Generator().manual_seed(4)
    a_RI = torch.randn(RANK, inputs, generator=rng)
    b_OR = torch.randn(outputs, RANK, generator=rng)
    save_file({f"{MODULE}.lora_A.weight": a_RI, f"{MODULE}.lora_B.weight": b_OR}, folder / WEIGHTS)
    known = {"peft_type": "LORA", "r": RANK, "lora_alpha": ALPHA, "target_modules": ["q_b_proj"]}
    (folder / CONFIG).write_text(json.dumps(known | config))
    return a_RI, b_OR


@pytest.mark.parametrize(
    ("config", "scale"),
    [
        ({}, ALPHA / RANK),
        ({"use_rslora": False}, ALPHA / RANK),
        ({"use_rslora": True}, ALPHA / math.sqrt(RANK)),
    ],
)
def test_the_change_is_scaled_as_the_file_says(tmp_path, config, scale):
    """By alpha / r, or, rank-stabilised (arXiv 2312.03732), by alpha / sqrt(r)."""
    model = new_model()
    base = get_weight(model, NAME).detach().double()
    a_RI, b_OR = written(tmp_path, *base.shape, **config)
    assert attach_adapter(model, tmp_path) == 1
    wanted = base + scale * b_OR.double() @ a_RI.double()
    # float32 sums of four terms of size ten
    assert float((get_factor(model, NAME).merged() - wanted).abs().max()) < 1e-5
