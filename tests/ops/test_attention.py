"""Attention over stored rows: the native kernel against the same sums in float64."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from dsv4.ops.cpu.native import native

if native is None:
    pytest.skip("the native kernels are not built", allow_module_level=True)

COUNTS = (1, 2, 15, 63, 64, 65, 127, 128, 129, 640, 1000)
SHAPES = [(512, 64), (128, 64), (128, 32), (96, 64), (72, 8), (40, 0), (320, 32), (576, 64)]


pytestmark = pytest.mark.usefixtures("instruction_set")


def stored(x: Tensor, rotated: int) -> Tensor:
    """x [N, C] float32 as stored entries [N, bytes]."""
    scales = (x.shape[1] - rotated + 63) // 64
    out = torch.empty(x.shape[0], x.shape[1] + rotated + (scales + 7) // 8 * 8, dtype=torch.uint8)
    native.kernels.pack_kv(x.data_ptr(), x.shape[0], x.shape[1], rotated, out.data_ptr())
    return out


def values(rows: Tensor, width: int, rotated: int) -> Tensor:
    out = torch.empty(rows.shape[0], width)
    native.kernels.unpack_kv(rows.data_ptr(), rows.shape[0], width, rotated, out.data_ptr())
    return out


def attend(
    q_HC: Tensor,
    rows: Tensor,
    chosen_K: Tensor,
    rotated: int,
    sink_H: Tensor,
    splits: Sequence[int] = (),
) -> Tensor:
    """out [H, C]; heads in calls that end at `splits`, and one for the rest."""
    heads, width = q_HC.shape
    chosen = chosen_K.to(torch.int32)
    out = torch.full((heads, width), torch.nan)
    ends = [*splits, heads]
    for begin, end in zip([0, *splits], ends, strict=True):
        native.kernels.attend(
            q_HC.data_ptr(), rows.data_ptr(), chosen.data_ptr(), len(chosen), width, rotated,
            sink_H.data_ptr(), heads, begin, end, out.data_ptr(),
        )  # fmt: skip
    return out


def reference(q_HC: Tensor, keys_KC: Tensor, sink_H: Tensor) -> Tensor:
    """The same in float64, from q rounded to bfloat16."""
    q, keys = q_HC.bfloat16().double(), keys_KC.double()
    z = q @ keys.T * q.shape[1] ** -0.5
    peak = z.amax(1, keepdim=True)
    p = torch.exp(z - peak)
    return p @ keys / (p.sum(1, keepdim=True) + torch.exp(sink_H.double()[:, None] - peak))


def error(out: Tensor, expected: Tensor) -> float:
    """Largest relative L2 error of a head."""
    return float(((out.double() - expected).norm(dim=1) / expected.norm(dim=1)).max())


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize(("width", "rotated"), [(512, 64), (128, 64)])
def test_counts(width: int, rotated: int, count: int) -> None:
    rows = stored(torch.randn(count + 50, width), rotated)
    q, sinks = torch.randn(19, width), torch.randn(19)
    chosen = torch.randint(0, count + 50, (count,))
    out = attend(q, rows, chosen, rotated, sinks)
    assert error(out, reference(q, values(rows, width, rotated)[chosen], sinks)) < 2e-6


@pytest.mark.parametrize("heads", [1, 3, 4, 8, 16, 17, 33, 64, 128])
@pytest.mark.parametrize(("width", "rotated"), SHAPES)
def test_shapes(width: int, rotated: int, heads: int) -> None:
    rows = stored(torch.randn(100, width), rotated)
    q, sinks = torch.randn(heads, width), torch.randn(heads)
    chosen = torch.randperm(100)[:77]
    out = attend(q, rows, chosen, rotated, sinks)
    assert error(out, reference(q, values(rows, width, rotated)[chosen], sinks)) < 2e-6


def test_many_rows() -> None:
    rows = stored(torch.randn(9000, 512), 64)
    q, sinks = torch.randn(4, 512), torch.randn(4)
    out = attend(q, rows, torch.arange(9000), 64, sinks)
    assert error(out, reference(q, values(rows, 512, 64), sinks)) < 2e-6


@pytest.mark.parametrize("count", [5, 64, 200])
def test_any_split_of_the_heads_gives_the_same_bits(count: int) -> None:
    rows = stored(torch.randn(count, 512), 64)
    q, sinks = torch.randn(40, 512), torch.randn(40)
    chosen = torch.arange(count)
    whole = attend(q, rows, chosen, 64, sinks)
    for splits in ((1,), (16,), (3, 4, 20), (8, 16, 24, 32), tuple(range(1, 40))):
        assert torch.equal(attend(q, rows, chosen, 64, sinks, splits), whole)


def test_other_rows_in_memory_do_not_matter() -> None:
    rows = stored(torch.randn(300, 128), 64)
    q, sinks = torch.randn(5, 128), torch.randn(5)
    chosen = torch.randperm(300)[:130]
    alone = rows[chosen].contiguous()
    assert torch.equal(
        attend(q, rows, chosen, 64, sinks), attend(q, alone, torch.arange(130), 64, sinks)
    )


def test_no_rows_give_zero() -> None:
    rows = stored(torch.randn(1, 128), 64)
    none = torch.empty(0, dtype=torch.int32)
    assert not attend(torch.randn(3, 128), rows, none, 64, torch.randn(3)).any()


@pytest.mark.parametrize("size", [30.0, 1e4, 1e15])
def test_large_scores(size: float) -> None:
    # Small integers, and 256^-0.5 a power of two: scores are exact, the softmax is what is tested.
    keys = torch.randint(-3, 4, (200, 256)).float()
    rows = stored(keys, 64)
    q = torch.randint(-3, 4, (6, 256)).float() * 2.0 ** round(torch.tensor(size).log2().item())
    out = attend(q, rows, torch.arange(200), 64, torch.zeros(6))
    assert error(out, reference(q, values(rows, 256, 64), torch.zeros(6))) < 2e-6


@pytest.mark.parametrize("sink", [-1e30, -100.0, 3.0, 40.0])
def test_sinks_of_all_sizes(sink: float) -> None:
    rows = stored(torch.randn(90, 128), 64)
    q, sinks = torch.randn(6, 128), torch.full((6,), sink)
    out = attend(q, rows, torch.arange(90), 64, sinks)
    assert error(out, reference(q, values(rows, 128, 64), sinks)) < 2e-6
    drowned = attend(q, rows, torch.arange(90), 64, torch.full((6,), 1e30))
    assert not drowned.any()
    without = attend(q, rows, torch.arange(90), 64, torch.full((6,), -torch.inf))
    assert error(without, reference(q, values(rows, 128, 64), torch.full((6,), -1e30))) < 2e-6


@pytest.mark.parametrize("scale", [1e-30, 1e-6, 1e6, 1e30])
def test_keys_of_all_sizes(scale: float) -> None:
    rows = stored(torch.randn(90, 192) * scale, 64)
    q, sinks = torch.randn(6, 192) / scale, torch.zeros(6)
    out = attend(q, rows, torch.arange(90), 64, sinks)
    held = values(rows, 192, 64)
    # Plain channels below 1e-4 * 2^-10 or so are stored as zeros: the rotated ones remain.
    assert error(out, reference(q, held, sinks)) < 2e-6


def test_bad_numbers_stay_with_their_head_or_row() -> None:
    x = torch.randn(100, 128)
    q, sinks = torch.randn(6, 128), torch.zeros(6)
    clean = attend(q, stored(x, 64), torch.arange(100), 64, sinks)
    q[2, 5] = torch.nan
    q[4, 70] = -torch.inf
    out = attend(q, stored(x, 64), torch.arange(100), 64, sinks)
    assert bool(out[2].isnan().all())
    assert torch.equal(out[[0, 1, 3, 5]], clean[[0, 1, 3, 5]])
    x[7, 3] = torch.nan
    assert bool(attend(q, stored(x, 64), torch.arange(100), 64, sinks).isnan().all())
