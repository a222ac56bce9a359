"""The divergence against its definition in float64, whole and in chunks."""

import pytest
import torch

from dsv4.training.distill import reverse_kl


def inputs(dtype=torch.float32):
    """Heads of different widths over one vocabulary."""
    x, head = torch.randn(7, 16), torch.randn(40, 16)
    y, other = torch.randn(7, 24), torch.randn(40, 24)
    return [tensor.to(dtype) for tensor in (x, head, y, other)]


def definition(x, head, y, other):
    p = torch.softmax(x @ head.T, -1)
    return (p * (p.log() - torch.log_softmax(y @ other.T, -1))).sum(-1)


@pytest.mark.parametrize("chunk", [1, 3, 7, 512])
def test_value_and_gradients_are_those_of_the_definition(chunk):
    x, head, y, other = inputs()
    x.requires_grad_(True), head.requires_grad_(True)
    weight = torch.rand(7)
    kl = reverse_kl(x, head, y, other, chunk=chunk)
    (kl * weight).sum().backward()
    exact = [tensor.detach().double() for tensor in (x, head, y, other)]
    exact[0].requires_grad_(True), exact[1].requires_grad_(True)
    wanted = definition(*exact)
    (wanted * weight.double()).sum().backward()
    # float32 against float64 over 40 terms of size ~10
    torch.testing.assert_close(kl.double(), wanted, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(x.grad.double(), exact[0].grad, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(head.grad.double(), exact[1].grad, rtol=1e-4, atol=1e-5)


def test_a_teacher_equal_to_the_student_gives_exactly_nothing():
    x, head, _, _ = inputs()
    x.requires_grad_(True)
    kl = reverse_kl(x, head, x.detach(), head)
    kl.sum().backward()
    assert kl.tolist() == [0.0] * 7
    assert float(x.grad.abs().max()) == 0.0


def test_no_positions_are_no_loss():
    x, head, y, other = inputs()
    assert reverse_kl(x[:0], head, y[:0], other).shape == (0,)
