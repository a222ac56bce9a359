"""Muon: orthogonal updates of the stated size."""

import pytest
import torch

from dsv4.training.muon import UPDATE_RMS, Muon, orthogonalise


@pytest.mark.parametrize("shape", [(64, 64), (32, 128), (128, 32), (4, 256), (24, 1024)])
def test_singular_values_become_one(shape):
    x = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonalise(x))
    assert (values - 1).abs().max() < 1e-3


@pytest.mark.parametrize("shape", [(64, 64), (32, 128), (128, 32)])
def test_update_has_the_rms_of_the_report(shape):
    weight = torch.zeros(shape)
    weight.grad = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    muon = Muon({"w": weight}, {"w": (shape[0],)}, weight_decay=0.0)
    muon.step(lr=1.0)
    assert weight.square().mean().sqrt() == pytest.approx(UPDATE_RMS, rel=2e-3)


def test_the_result_is_the_polar_factor():
    x = torch.randn(1, 20, 30, generator=torch.Generator().manual_seed(2))
    u, _, vh = torch.linalg.svd(x, full_matrices=False)
    assert torch.allclose(orthogonalise(x), u @ vh, atol=2e-3)


def test_bfloat16_products_are_close():
    x = torch.randn(2, 48, 96, generator=torch.Generator().manual_seed(3))
    values = torch.linalg.svdvals(orthogonalise(x, torch.bfloat16))
    assert (values - 1).abs().max() < 0.03


def test_zero_stays_zero_and_scale_does_not_matter():
    assert orthogonalise(torch.zeros(1, 8, 8)).abs().max() == 0
    x = torch.randn(1, 8, 8, generator=torch.Generator().manual_seed(4))
    assert torch.allclose(orthogonalise(x * 1e-6), orthogonalise(x), atol=1e-4)


def test_momentum_looks_ahead_as_in_the_report():
    """M <- mu M + G; the direction is mu M + G, so after G1, G2: mu (mu G1 + G2) + G2."""
    draw = torch.Generator().manual_seed(5)
    one, two = torch.randn(8, 8, generator=draw), torch.randn(8, 8, generator=draw)
    weight = torch.zeros(8, 8)
    muon = Muon({"w": weight}, {"w": (8,)}, momentum=0.9, weight_decay=0.0)
    weight.grad = one
    muon.step(lr=0.0)
    weight.grad = two
    muon.step(lr=1.0)
    direction = 0.9 * (0.9 * one + two) + two
    expected = -orthogonalise(direction[None])[0] * UPDATE_RMS * 8**0.5
    assert torch.allclose(weight, expected, atol=1e-5)


def test_weight_decay_shrinks_by_rate_times_decay():
    weight = torch.ones(4, 4)
    weight.grad = torch.zeros(4, 4)
    Muon({"w": weight}, {"w": (4,)}, weight_decay=0.1).step(lr=0.5)
    assert torch.allclose(weight, torch.full((4, 4), 0.95))


def test_pieces_and_equal_shapes_are_updated_independently():
    """A stacked parameter moves as its pieces would alone, whatever shares their batch."""
    draw = torch.Generator().manual_seed(6)
    gradient, other = torch.randn(8, 6, generator=draw), torch.randn(4, 6, generator=draw)

    def moved(parts):
        weights = {name: torch.zeros(len(g), 6) for name, g in parts.items()}
        for name, g in parts.items():
            weights[name].grad = g
        pieces = {name: (4,) * (len(g) // 4) for name, g in parts.items()}
        Muon(weights, pieces).step(lr=1.0)
        return weights

    together = moved({"a": gradient, "b": other})
    alone = moved({"a": gradient[:4]}), moved({"a": gradient[4:]})
    assert torch.allclose(together["a"], torch.cat([alone[0]["a"], alone[1]["a"]]), atol=1e-6)
    whole = orthogonalise(gradient[None])[0]
    assert not torch.allclose(together["a"], -whole * UPDATE_RMS * 8**0.5, atol=1e-2)


def test_parameters_without_gradient_do_not_move():
    weight = torch.ones(4, 4)
    Muon({"w": weight}, {"w": (4,)}).step(lr=1.0)
    assert torch.equal(weight, torch.ones(4, 4))
