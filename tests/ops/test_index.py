"""The indexer's choice: the native kernel against exact scores and a stable sort."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dsv4.numerics import formats
from dsv4.ops.cpu.native import native

if native is None:
    pytest.skip("the native kernels are not built", allow_module_level=True)


pytestmark = pytest.mark.usefixtures("instruction_set")


def keys_of(codes: Tensor, scales: Tensor) -> Tensor:
    """Stored keys [N, bytes] of e2m1 codes [N, I] and e8m0 codes [N, I / 32]."""
    packed = formats.pack_e2m1(codes.to(torch.uint8)).view(torch.uint8)
    return torch.cat((packed, scales.to(torch.uint8)), 1).contiguous()


def random_keys(count: int, width: int, low: int = 124, high: int = 130) -> Tensor:
    codes = torch.randint(0, 16, (count, width))
    return keys_of(codes, torch.randint(low, high, (count, width // 32)))


def values(keys: Tensor, width: int) -> Tensor:
    codes = formats.unpack_e2m1(keys[:, : width // 2].contiguous())
    scales = formats.decode_e8m0(keys[:, width // 2 :].contiguous())
    return formats.decode_e2m1(codes).double() * scales.double().repeat_interleave(32, 1)


def select(q: Tensor, weights: Tensor, keys: Tensor, width: int, k: int) -> Tensor:
    """Chosen from all keys at once, which must be what is chosen from parts of them and merged."""
    found = []
    for parts, shift in ((1, 20), (1, 5), (2, 5), (5, 5), (2, 0)):
        out = torch.full((k,), -7, dtype=torch.int32)
        native.kernels.select(
            q.data_ptr(), weights.data_ptr(), len(weights), keys.data_ptr(), len(keys), width, k,
            parts, shift, out.data_ptr(),
        )  # fmt: skip
        found.append(out)
    assert all(torch.equal(out, found[0]) for out in found)
    return found[0]


def scores(q: Tensor, weights: Tensor, keys: Tensor, width: int) -> Tensor:
    """[N] float64."""
    return (values(q, width) @ values(keys, width).T).relu().mul(weights.double()[:, None]).sum(0)


def best(scores_N: Tensor, k: int) -> Tensor:
    """The k highest, lower entries first among equals; ascending, int32."""
    order = scores_N.sort(descending=True, stable=True).indices[:k]
    return order.sort().values.to(torch.int32)


def whole_weights(heads: int) -> Tensor:
    """Integers: with keys of nearby scales, every score is exact in float32."""
    return torch.randint(-8, 9, (heads,)).float()


@pytest.mark.parametrize("width", [32, 64, 96, 128])
@pytest.mark.parametrize("heads", [1, 3, 4, 7, 16, 64])
def test_exact_scores_give_the_exact_choice(heads: int, width: int) -> None:
    q, weights = random_keys(heads, width), whole_weights(heads)
    for count in (65, 640, 1000, 5003):
        keys = random_keys(count, width)
        for k in (8, 64):
            expected = best(scores(q, weights, keys, width), k)
            assert torch.equal(select(q, weights, keys, width, k), expected)


@pytest.mark.parametrize("k", [8, 64, 129, 512, 1024])
def test_counts_around_k(k: int) -> None:
    q, weights = random_keys(5, 64), whole_weights(5)
    for count in (0, 1, k - 1, k, k + 1, k + 31, 2 * k, 2 * k + 33):
        keys = random_keys(count, 64)
        expected = torch.full((k,), -1, dtype=torch.int32)
        expected[: min(count, k)] = best(scores(q, weights, keys, 64), k)
        assert torch.equal(select(q, weights, keys, 64, k), expected)


@pytest.mark.parametrize("k", [8, 512, 1024])
@pytest.mark.parametrize("order", ["ascending", "descending", "shuffled"])
def test_long_lists_in_any_order(order: str, k: int) -> None:
    q, weights = random_keys(2, 64), torch.tensor([1.0, 2.0])
    keys = random_keys(30011, 64)
    if order != "shuffled":
        value = scores(q, weights, keys, 64)
        keys = keys[value.sort(descending=order == "descending").indices].contiguous()
    assert torch.equal(select(q, weights, keys, 64, k), best(scores(q, weights, keys, 64), k))


@pytest.mark.parametrize("count", [100, 3000, 20000])
def test_equal_scores_go_to_the_lower_entries(count: int) -> None:
    q, weights = random_keys(3, 64), torch.ones(3)
    first = torch.arange(64, dtype=torch.int32)
    alike = random_keys(1, 64).expand(count, -1).contiguous()
    assert torch.equal(select(q, weights, alike, 64, 64), first)
    keys = random_keys(count, 64)
    assert torch.equal(select(q, torch.zeros(3), keys, 64, 64), first)
    # Few distinct scores, so that the last place is shared by many.
    few = random_keys(5, 64)[torch.randint(0, 5, (count,))].contiguous()
    assert torch.equal(select(q, weights, few, 64, 64), best(scores(q, weights, few, 64), 64))


def test_zeros_of_either_sign_are_equal() -> None:
    # Opposite keys: relu leaves 0 for all but a few entries, and a negative weight makes -0.
    q = keys_of(torch.full((2, 32), 2), torch.full((2, 1), 127))
    keys = keys_of(torch.full((500, 32), 10), torch.full((500, 1), 127))
    keys[[77, 300, 499]] = keys_of(torch.full((1, 32), 2), torch.full((1, 1), 127))
    up = select(q, torch.tensor([1.0, -0.25]), keys, 32, 8)
    assert up.tolist() == [0, 1, 2, 3, 4, 77, 300, 499]
    down = select(q, torch.tensor([-1.0, -0.0]), keys, 32, 8)
    assert down.tolist() == list(range(8))


def test_a_key_scores_the_same_anywhere() -> None:
    # Random weights and scales: scores are rounded, but equal keys must tie at every place.
    q, weights = random_keys(16, 128, 110, 140), torch.randn(16)
    few = random_keys(6, 128, 110, 140)
    which = torch.randint(0, 6, (4001,))
    value = scores(q, weights, few, 128)
    chosen = select(q, weights, few[which].contiguous(), 128, 300)
    assert torch.equal(chosen, best(value[which], 300))


def test_random_weights_choose_well() -> None:
    q, weights = random_keys(64, 128), torch.randn(64)
    keys = random_keys(9000, 128)
    value = scores(q, weights, keys, 128)
    chosen = select(q, weights, keys, 128, 512).long()
    assert len(set(chosen.tolist())) == 512
    bar = value[best(value, 512).long()].min()
    slack = 1e-5 * value.abs().max()
    assert bool((value[chosen] >= bar - slack).all())
    sure = (value > bar + slack).nonzero().flatten()
    assert set(sure.tolist()) <= set(chosen.tolist())


@pytest.mark.parametrize(("q_scale", "key_scale"), [(1, 253), (253, 1), (200, 54), (60, 60)])
def test_extreme_scales_cancel(q_scale: int, key_scale: int) -> None:
    q = random_keys(4, 64, q_scale, q_scale + 1)
    keys = random_keys(3000, 64, key_scale, key_scale + 1)
    weights = torch.tensor([1.0, 2.0, -1.0, 4.0])
    expected = best(scores(q, weights, keys, 64), 100)
    assert torch.equal(select(q, weights, keys, 64, 100), expected)


def test_overflow_and_nan_are_not_mixed_up() -> None:
    # Products of scales overflow, dot products are 0 for all entries but one: no NaN comes up.
    q = keys_of(torch.full((1, 32), 2), torch.full((1, 1), 253))
    codes = torch.cat((torch.full((500, 16), 2), torch.full((500, 16), 10)), 1)
    codes[400, 20] = 2
    keys = keys_of(codes, torch.full((500, 1), 253))
    assert select(q, torch.ones(1), keys, 32, 3).tolist() == [0, 1, 400]
    keys[[1, 2, 400], -1] = 255
    assert select(q, torch.ones(1), keys, 32, 3).tolist() == [0, 3, 4]
    keys[:, -1] = 255
    keys[450, -1] = 127
    assert select(q, torch.ones(1), keys, 32, 3).tolist() == [0, 1, 450]
