"""Who trains what, and AdamW itself."""

import pytest
import torch

from dsv4.errors import CheckpointError
from dsv4.model.transformer import Transformer
from dsv4.presets import preset
from dsv4.training.adam import AdamW
from dsv4.training.optimizer import Optimizer, OptimizerSettings, is_muon, split_rows

CONFIG = preset("tiny")


@pytest.fixture(scope="module")
def named():
    with torch.device("meta"):
        model = Transformer(CONFIG)
    return dict(model.named_parameters())


@pytest.mark.parametrize(
    ("name", "muon"),
    [
        ("layers.0.attn.wq_a.weight", True),
        ("layers.3.ffn.experts.7.w1.weight", True),
        ("layers.3.ffn.gate.weight", True),
        ("layers.2.attn.compressor.wgate.weight", True),
        ("layers.2.hc_attn_fn", True),
        ("hc_head_fn", True),
        ("mtp.0.e_proj.weight", True),
        ("embed.weight", False),
        ("head.weight", False),
        ("norm.weight", False),
        ("layers.1.attn_norm.weight", False),
        ("layers.2.attn.compressor.ape", False),
        ("layers.0.attn.attn_sink", False),
        ("layers.0.hc_ffn_base", False),
        ("layers.0.hc_ffn_scale", False),
    ],
)
def test_split_between_the_optimisers(named, name, muon):
    assert is_muon(name, named[name]) is muon


def test_independent_matrices_in_one_tensor_are_told_apart(named):
    def rows(name):
        return split_rows(name, named[name], CONFIG)

    assert rows("layers.0.attn.wo_a.weight") == (128, 128)
    assert rows("layers.0.hc_attn_fn") == (4, 4, 16)
    assert rows("layers.2.attn.compressor.wkv.weight") == (128, 128)
    assert rows("layers.3.attn.compressor.wkv.weight") == (128,)
    assert rows("layers.2.attn.indexer.compressor.wkv.weight") == (128, 128)
    assert rows("layers.0.attn.wq_b.weight") == (512,)


def test_adamw_matches_torch():
    draw = torch.Generator().manual_seed(0)
    ours = torch.randn(5, 3, generator=draw)
    theirs = ours.clone().requires_grad_()
    mine = AdamW({"w": ours}, {"w": 0.1})
    reference = torch.optim.AdamW([theirs], lr=1.0, betas=(0.9, 0.95), eps=1e-20, weight_decay=0.1)
    for step in range(5):
        gradient = torch.randn(5, 3, generator=draw)
        ours.grad, theirs.grad = gradient.clone(), gradient.clone()
        rate = 0.1 / (step + 1)
        mine.step(rate)
        reference.param_groups[0]["lr"] = rate
        reference.step()
    assert torch.allclose(ours, theirs.detach(), atol=1e-6)


class Tiny(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.mix = torch.nn.Parameter(torch.ones(4, 4))
        self.attn_sink = torch.nn.Parameter(torch.ones(4))
        self.norm = torch.nn.Module()
        self.norm.weight = torch.nn.Parameter(torch.ones(4))


def test_sinks_are_not_decayed_and_norms_are():
    model = Tiny()
    optimizer = Optimizer(model, CONFIG, OptimizerSettings())
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step(lr=1.0)
    assert torch.equal(model.attn_sink.detach(), torch.ones(4))
    assert torch.allclose(model.norm.weight.detach(), torch.full((4,), 0.9))
    assert all(parameter.grad is None for parameter in model.parameters())


def test_state_of_another_model_is_refused():
    with pytest.raises(CheckpointError, match="does not fit"):
        Optimizer(Tiny(), CONFIG, OptimizerSettings()).restore({"muon.other": torch.zeros(1)})
