"""A layer of experts against float64, with inputs that drive the gates beyond the clamp."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from dsv4.model.moe import Expert, MoE
from dsv4.model.transformer import Transformer
from dsv4.model.weights import init_weights
from dsv4.numerics.policy import EXACT
from dsv4.presets import preset

CONFIG = replace(preset("tiny"), hidden_size=32, moe_intermediate_size=16, swiglu_limit=0.5)


def expected(expert: Expert, x_D: Tensor) -> Tensor:
    """The SwiGLU of one token, its gate bounded above and its value on both sides."""
    w1, w3, w2 = (weight.double() for weight in expert.matrices())
    limit = CONFIG.swiglu_limit
    gate, up = (w1 @ x_D).clamp(max=limit), (w3 @ x_D).clamp(-limit, limit)
    return w2 @ (gate * torch.sigmoid(gate) * up)


@pytest.mark.parametrize("layer", [0, CONFIG.num_hash_layers])
@torch.no_grad()
def test_routed_and_shared_experts_clamp(layer: int) -> None:
    model = Transformer(CONFIG)
    init_weights(model, 0)
    moe = model.layers[layer].ffn
    assert isinstance(moe, MoE)
    x_BTD, ids_BT = torch.randn(1, 7, CONFIG.hidden_size) * 20, torch.arange(7)[None]
    found_BTD, routing = moe(x_BTD, ids_BT, EXACT)
    shared = [expected(moe.shared_experts, x.double()) for x in x_BTD[0]]
    for n, x in enumerate(x_BTD[0].double()):
        chosen = routing.experts_NK[n]
        scores = routing.scores_NE[n, chosen].double()
        weights = CONFIG.routed_scaling_factor * scores / scores.sum()
        routed = [expected(moe.experts[int(e)], x) for e in chosen]
        want = shared[n] + sum(w * out for w, out in zip(weights, routed, strict=True))
        torch.testing.assert_close(found_BTD[0, n].double(), want, rtol=1e-4, atol=1e-5)
    # Without the clamp each part would be another: the inputs are large enough to tell.
    w1 = moe.shared_experts.matrices()[0]
    assert (x_BTD[0] @ w1.T > CONFIG.swiglu_limit).any()
