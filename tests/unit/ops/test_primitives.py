"""Ops against their equations, spelled out naively in float64 or plain Python."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from dsv4 import ops
from dsv4.errors import UsageError
from dsv4.numerics.policy import EXACT, OFFICIAL, by_name
from dsv4.numerics.quantized import FP8, quantize


def test_linear_accepts_quantised_and_dense_weights_alike() -> None:
    x, w = torch.randn(3, 5, 130), torch.randn(70, 130)
    q = quantize(w, FP8)
    assert torch.equal(ops.linear(x, q, EXACT), ops.linear(x, q.dequantize(), EXACT))


def test_official_rounds_activations_in_front_of_quantised_weights_only() -> None:
    x, w = torch.randn(4, 128), torch.randn(8, 128)
    dense = ops.linear(x.bfloat16(), w, OFFICIAL)
    assert torch.equal(dense, (x.bfloat16().float() @ w.T).bfloat16())
    q = quantize(w, FP8)
    rounded = ops.linear(x.bfloat16(), q, OFFICIAL)
    assert not torch.equal(rounded, (x.bfloat16().float() @ q.dequantize().T).bfloat16())


def test_rms_norm() -> None:
    x, w = torch.randn(6, 33), torch.randn(33)
    want = x.double() / (x.double().square().mean(-1, keepdim=True) + 1e-6).sqrt() * w
    torch.testing.assert_close(ops.rms_norm(x, w, 1e-6, EXACT).double(), want, rtol=1e-5, atol=1e-6)


def test_rotation_turns_adjacent_pairs_of_the_last_channels() -> None:
    x = torch.randn(2, 10)
    phi = torch.tensor([0.3, 1.1, -2.0])
    found = ops.rotate(x, phi.cos(), phi.sin())
    assert torch.equal(found[:, :4], x[:, :4])
    for row in range(2):
        for j in range(3):
            u, v = x[row, 4 + 2 * j].item(), x[row, 5 + 2 * j].item()
            turned = complex(u, v) * complex(math.cos(phi[j]), math.sin(phi[j]))
            assert found[row, 4 + 2 * j].item() == pytest.approx(turned.real, abs=1e-6)
            assert found[row, 5 + 2 * j].item() == pytest.approx(turned.imag, abs=1e-6)
    back = ops.rotate(found, phi.cos(), phi.sin(), inverse=True)
    torch.testing.assert_close(back, x)


def test_hadamard_is_orthonormal_and_in_sylvester_order() -> None:
    matrix = ops.hadamard(torch.eye(16))
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(16))
    for i in range(16):
        for j in range(16):
            sign = -1 if (i & j).bit_count() % 2 else 1
            assert matrix[i, j] == sign * 0.25


def test_grouped_linear_keeps_groups_apart() -> None:
    x, w = torch.randn(5, 2, 6), torch.randn(8, 6)
    found = ops.grouped_linear(x, w, EXACT)
    torch.testing.assert_close(found[:, :4], x[:, 0] @ w[:4].T)
    torch.testing.assert_close(found[:, 4:], x[:, 1] @ w[4:].T)


def naive_attention(
    q: Tensor, kv: Tensor, entries: Tensor, sink: Tensor, window: int, ratio: int
) -> Tensor:
    """One query at a time, one head at a time, in float64."""
    T, H, C = q.shape
    out = torch.zeros(T, H, C, dtype=torch.float64)
    for t in range(T):
        rows = list(kv[max(0, t - window + 1) : t + 1]) + list(entries[: (t + 1) // ratio])
        for h in range(H):
            z = [float(q[t, h].double() @ row.double()) / math.sqrt(C) for row in rows]
            total = sum(math.exp(v) for v in z) + math.exp(sink[h])
            for v, row in zip(z, rows, strict=True):
                out[t, h] += math.exp(v) / total * row.double()
    return out


@pytest.mark.parametrize("T", [1, 2, 5, 130, 257])
def test_attention_against_a_loop(T: int) -> None:
    H, C, window, ratio = 2, 8, 5, 4
    q, kv, entries = torch.randn(1, T, H, C), torch.randn(1, T, C), torch.randn(1, T // 4, C)
    sink = torch.tensor([0.5, -3.0])
    found = ops.attend(
        q, kv, entries, None, sink, start=0, window=window, ratio=ratio, numerics=EXACT
    )
    want = naive_attention(q[0], kv[0], entries[0], sink, window, ratio)
    torch.testing.assert_close(found[0].double(), want, rtol=1e-5, atol=1e-6)


def test_selecting_every_visible_entry_is_attending_to_all() -> None:
    T, H, C, N = 40, 2, 8, 10
    q, kv, entries = torch.randn(1, T, H, C), torch.randn(1, T, C), torch.randn(1, N, C)
    visible = (torch.arange(T) + 1) // 4
    listed = torch.arange(N).expand(T, N).masked_fill(torch.arange(N) >= visible[:, None], -1)
    shuffled = listed[:, torch.randperm(N)][None]
    common = {"start": 0, "window": 6, "ratio": 4, "numerics": EXACT}
    whole = ops.attend(q, kv, entries, None, torch.zeros(H), **common)
    chosen = ops.attend(q, kv, entries, shuffled, torch.zeros(H), **common)
    torch.testing.assert_close(whole, chosen, rtol=1e-5, atol=1e-6)


def test_selection_is_causal_and_ties_go_to_the_lower_entry() -> None:
    q, w = torch.ones(1, 12, 1, 4), torch.ones(1, 12, 1)
    keys = torch.ones(1, 3, 4)  # all scores are equal
    found = ops.select(q, w, keys, start=0, ratio=4, k=2)[0].tolist()
    assert found[:3] == [[-1, -1]] * 3
    assert found[3:7] == [[0, -1]] * 4
    assert found[7:] == [[0, 1]] * 5


def test_selection_uses_relu_and_signed_head_weights() -> None:
    q = torch.tensor([[[[1.0], [-1.0]]]])  # one query, two heads, one channel
    keys = torch.tensor([[[2.0], [-3.0], [0.5]]])
    weights = torch.tensor([[[1.0, -1.0]]])
    # scores: relu(2)-relu(-2)=2, relu(-3)-relu(3)=-3, 0.5
    found = ops.select(q, weights, keys, start=11, ratio=4, k=3)[0, 0].tolist()
    assert found == [0, 2, 1]


def test_pooling_overlaps_by_one_block() -> None:
    m, D = 4, 3
    values, gates = torch.randn(1, 12, 2 * D), torch.randn(1, 12, 2 * D)
    ape = torch.randn(m, 2 * D)
    found = ops.pool_overlapping(values, gates, ape, has_previous=False)[0]
    for i in range(3):
        for d in range(D):
            rows = []
            for b in range(m):
                if i:
                    j = 4 * (i - 1) + b
                    rows.append((gates[0, j, d] + ape[b, d], values[0, j, d]))
                j = 4 * i + b
                rows.append((gates[0, j, D + d] + ape[b, D + d], values[0, j, D + d]))
            z = torch.stack([g for g, _ in rows]).double().softmax(0)
            want = (z * torch.stack([v for _, v in rows]).double()).sum()
            assert found[i, d].item() == pytest.approx(want.item(), abs=1e-5)
    later = ops.pool_overlapping(values, gates, ape, has_previous=True)[0]
    torch.testing.assert_close(later, found[1:])


def test_mixing_matrix_is_nearly_doubly_stochastic() -> None:
    logits = torch.randn(7, 24)
    scale, base = torch.full((3,), 0.8), torch.randn(24)
    pre, post, comb = ops.coefficients(logits, scale, base, 4, 20, 1e-6)
    torch.testing.assert_close(comb.sum(-2), torch.ones(7, 4), rtol=0, atol=1e-5)
    torch.testing.assert_close(comb.sum(-1), torch.ones(7, 4), rtol=0, atol=1e-3)
    assert ((pre > 0) & (pre < 1.00001)).all()
    assert ((post >= 0) & (post <= 2)).all()


def test_where_the_coefficients_have_their_eps() -> None:
    # A large one: the released 1e-6 is less than most tolerances.
    eps, scale, base = 0.05, torch.tensor([0.5, 1.5, 2.0]), torch.randn(24)
    logits = torch.randn(24)
    pre, post, comb = ops.coefficients(logits, scale, base, 4, 2, eps)
    raw = logits * scale.repeat_interleave(torch.tensor([4, 4, 16])) + base
    torch.testing.assert_close(pre, 1 / (1 + torch.exp(-raw[:4])) + eps)
    torch.testing.assert_close(post, 2 / (1 + torch.exp(-raw[4:8])))
    want = raw[8:].view(4, 4).exp()
    want = want / want.sum(1, keepdim=True) + eps
    for axis in (0, 1, 0):
        want = want / (want.sum(axis, keepdim=True) + eps)
    torch.testing.assert_close(comb, want)


def test_expansion_mixes_along_the_first_axis() -> None:
    streams, y = torch.randn(4, 6), torch.randn(6)
    comb, post = torch.rand(4, 4), torch.rand(4)
    found = ops.expand(y, streams, post, comb, EXACT)
    for b in range(4):
        want = post[b] * y + sum(comb[a, b] * streams[a] for a in range(4))
        torch.testing.assert_close(found[b], want)


def test_affinity_survives_extreme_logits() -> None:
    x = torch.tensor([[1.0]])
    gate = torch.tensor([[-200.0], [-20.0], [0.0], [25.0], [1e4]])
    found = ops.affinities(x, gate, EXACT)[0]
    want = [0.0, math.exp(-10), math.sqrt(math.log(2)), 5.0, 100.0]
    torch.testing.assert_close(found, torch.tensor(want), rtol=1e-4, atol=1e-30)
    weights = ops.routing_weights(torch.zeros(1, 4), torch.tensor([[0, 1]]), 2.5)
    assert torch.isfinite(weights).all()


def test_routing_uses_the_bias_for_choice_only() -> None:
    scores = torch.tensor([[1.0, 2.0, 3.0, 0.5]])
    chosen = ops.top_experts(scores, torch.tensor([5.0, 0, 0, 0]), 2)
    assert chosen.tolist() == [[0, 2]]
    weights = ops.routing_weights(scores, chosen, 1.5)
    torch.testing.assert_close(weights, torch.tensor([[0.375, 1.125]]))


def test_mixture_is_the_weighted_sum_over_experts() -> None:
    N, D, F, E, K = 9, 6, 4, 5, 2
    x = torch.randn(N, D) * 4
    matrices = [(torch.randn(F, D), torch.randn(F, D), torch.randn(D, F)) for _ in range(E)]
    experts = torch.stack([torch.randperm(E)[:K] for _ in range(N)])
    weights = torch.rand(N, K)
    found = ops.mixture(x, experts, weights, matrices, 2.0, EXACT)
    for n in range(N):
        want = torch.zeros(D, dtype=torch.float64)
        for k in range(K):
            w1, w3, w2 = (w.double() for w in matrices[experts[n, k]])
            gate = (w1 @ x[n].double()).clamp(max=2.0)
            up = (w3 @ x[n].double()).clamp(-2.0, 2.0)
            want += weights[n, k] * (w2 @ (gate * torch.sigmoid(gate) * up))
        torch.testing.assert_close(found[n].double(), want, rtol=1e-4, atol=1e-4)
    empty = ops.mixture(x[:0], experts[:0], weights[:0], matrices, 2.0, EXACT)
    assert empty.shape == (0, D)


def test_binding_fails_for_a_backend_that_does_not_exist() -> None:
    with pytest.raises(UsageError, match="no 'imaginary' implementation"), ops.use("imaginary"):
        pass
    with ops.use("reference"):
        assert all(row.backend == "reference" for row in ops.bindings())
    with pytest.raises(UsageError, match="'faster' is unknown"):
        by_name("faster")
