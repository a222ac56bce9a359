"""The compiled ops compute what the reference ops do.

Compilation is left out: it is torch's business, and takes a minute.
"""

import pytest
import torch
from torch import nn

from dsv4 import ops
from dsv4.model.transformer import Transformer
from dsv4.model.weights import init_weights
from dsv4.numerics.policy import BF16, EXACT
from dsv4.numerics.quantized import FP8, quantize
from dsv4.ops.compiled import attention as blocked
from dsv4.ops.compiled import compiled_ops, compiling
from dsv4.ops.compiled import hyper as streams_of
from dsv4.ops.compiled import loss as compiled_loss
from dsv4.ops.compiled import moe as sorted_moe
from dsv4.ops.compiled import primitives as pooled
from dsv4.ops.reference import attention, compressor, hyper, loss, moe
from dsv4.presets import preset


@pytest.fixture(autouse=True)
def eager(monkeypatch):
    monkeypatch.setattr(compiling, "compiled", lambda function, dynamic=False: function)


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def close(ours, theirs, limit=0.02):
    error = (ours.float() - theirs.float()).norm() / theirs.float().norm()
    assert error < limit, float(error)


@pytest.mark.parametrize(
    ("tokens", "ratio", "window"),
    [
        *((64, 0, 32), (128, 4, 128), (256, 4, 128), (256, 128, 128), (512, 0, 128)),
        *((512, 0, 129), (512, 4, 130), (768, 128, 512), (256, 4, 512), (64, 4, 512), (384, 0, 1)),
    ],
)
def test_attention_in_blocks_is_attention(tokens, ratio, window):
    q, kv = draw(2, tokens, 3, 16), draw(2, tokens, 16, seed=1)
    entries = draw(2, tokens // ratio, 16, seed=2) if ratio else None
    sink = draw(3, seed=3)
    places = {"start": 0, "window": window, "ratio": ratio}
    theirs = attention.attend(q, kv, entries, None, sink, numerics=EXACT, **places)
    half = [t.bfloat16() if t is not None else None for t in (q, kv, entries)]
    close(blocked.attend(*half, None, sink, numerics=BF16, **places), theirs)
    ours = blocked.attend(q, kv, entries, None, sink, numerics=EXACT, **places)
    assert torch.allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize(
    ("tokens", "chosen"),
    [(64, 1), (128, 8), (256, 16), (384, 96), (192, 16)],  # gathered: the first and the last
)
def test_attention_over_chosen_entries_and_its_gradients(tokens, chosen, rows):
    """As an indexer chooses them: fewer while few are finished, the others -1, in any order."""
    entries = tokens // 4
    order = draw(rows, tokens, entries, seed=4)
    unfinished = torch.arange(entries) >= (torch.arange(tokens)[:, None] + 1) // 4
    best = order.masked_fill(unfinished, float("-inf")).topk(chosen)
    selected = best.indices.masked_fill(best.values == float("-inf"), -1)
    shapes = ((rows, tokens, 3, 16), (rows, tokens, 16), (rows, entries, 16), (3,))
    given = [draw(*shape, seed=seed) for seed, shape in enumerate(shapes)]
    places = {"start": 0, "window": 32, "ratio": 4}

    def run(attend):
        leaves = [leaf.clone().requires_grad_() for leaf in given]
        out = attend(*leaves[:3], selected, leaves[3], numerics=EXACT, **places)
        (out * draw(*out.shape, seed=9)).sum().backward()
        return [out, *(leaf.grad for leaf in leaves)]

    theirs = run(attention.attend)
    for mine, reference in zip(run(blocked.attend), theirs, strict=True):
        assert torch.allclose(mine, reference, atol=2e-5)
    half = [leaf.bfloat16() for leaf in given[:3]]
    close(blocked.attend(*half, selected, given[3], numerics=BF16, **places), theirs[0])


def test_attention_falls_back_where_it_is_not_covered():
    q, kv, sink = draw(1, 100, 2, 8), draw(1, 130, 8, seed=1), draw(2)
    places = {"start": 30, "window": 128, "ratio": 0, "numerics": EXACT}
    theirs = attention.attend(q, kv, None, None, sink, **places)
    assert torch.equal(blocked.attend(q, kv, None, None, sink, **places), theirs)


@pytest.mark.parametrize(("numerics", "limit"), [(BF16, 0.05), (EXACT, 1e-5)])
@pytest.mark.parametrize("spare", [0, 256])
@pytest.mark.parametrize("spread", ["even", "one expert", "few tokens"])
def test_mixture_and_its_gradients(spread, spare, numerics, limit, monkeypatch):
    """With room to spare too, as a buffer on a GPU has."""
    exact = sorted_moe._rows
    monkeypatch.setattr(sorted_moe, "_rows", lambda room, chosen: exact(room, chosen) + spare)
    tokens = 3 if spread == "few tokens" else 150
    x = draw(tokens, 32) * 0.2  # far from the clamp, whose gradient jumps
    experts = torch.stack([torch.randperm(4, generator=torch.Generator().manual_seed(i))[:2]
                           for i in range(tokens)])  # fmt: skip
    if spread == "one expert":
        experts = torch.tensor([[1, 3]]).expand(tokens, 2)
    weights = torch.rand(tokens, 2, generator=torch.Generator().manual_seed(5))
    matrices = [tuple(draw(*s, seed=9 * e + i) for i, s in
                      enumerate(((16, 32), (16, 32), (32, 16)))) for e in range(4)]  # fmt: skip

    def run(mixture, numerics):
        leaves = [x, weights, *(m for triple in matrices for m in triple)]
        leaves = [leaf.clone().requires_grad_() for leaf in leaves]
        triples = list(zip(leaves[2::3], leaves[3::3], leaves[4::3], strict=True))
        out = mixture(leaves[0], experts, leaves[1], triples, 10.0, numerics)
        out.backward(draw(*out.shape, seed=77).to(out.dtype))
        return out, [leaf.grad for leaf in leaves]

    ours, our_gradients = run(sorted_moe.sorted_mixture, numerics)
    theirs, their_gradients = run(moe.mixture, EXACT)
    close(ours, theirs, limit)
    for mine, reference in zip(our_gradients, their_gradients, strict=True):
        if reference is None:
            assert mine is None or not mine.any()  # an expert that no token chose
        elif reference.any():
            close(mine, reference, limit)


@pytest.mark.parametrize(("numerics", "limit"), [(BF16, 0.02), (EXACT, 1e-6)])
def test_weights_that_are_stored_quantised_are_computed(numerics, limit):
    """As those of a large teacher are, which is asked while another model trains."""
    x = draw(6, 32)
    stored = [
        quantize(draw(*shape, seed=seed), FP8)
        for seed, shape in enumerate(((48, 32), (48, 32), (32, 48)))
    ]
    plain = [weight.dequantize() for weight in stored]
    experts, weights = torch.zeros(6, 1, dtype=torch.int64), torch.ones(6, 1)
    close(pooled.linear(x, stored[0], numerics), pooled.linear(x, plain[0], numerics), limit)
    close(sorted_moe.swiglu(x, *stored, 10.0, numerics), moe.swiglu(x, *plain, 10.0, EXACT), limit)
    mixed = sorted_moe.mixture(x, experts, weights, [tuple(stored)], 10.0, numerics)
    close(mixed, moe.mixture(x, experts, weights, [tuple(plain)], 10.0, EXACT), limit)


def test_mixing_coefficients_and_their_gradients():
    leaves = [draw(2, 5, 24), draw(3, seed=1), draw(24, seed=2)]

    def run(function):
        given = [leaf.clone().requires_grad_() for leaf in leaves]
        found = function(*given, 4, 20, 1e-6)
        sum((part * draw(*part.shape, seed=i)).sum() for i, part in enumerate(found)).backward()
        return [*found, *(leaf.grad for leaf in given)]

    for mine, reference in zip(run(streams_of.coefficients), run(hyper.coefficients), strict=True):
        assert torch.allclose(mine, reference, atol=2e-5, rtol=1e-4)


def test_expansion_and_pooling():
    y, streams = draw(2, 5, 8), draw(2, 5, 4, 8, seed=1)
    post, comb = draw(2, 5, 4, seed=2), draw(2, 5, 4, 4, seed=3)
    theirs = hyper.expand(y, streams, post, comb, EXACT)
    assert torch.allclose(streams_of.expand(y, streams, post, comb, EXACT), theirs, atol=1e-5)
    values, gates, ape = draw(2, 16, 12), draw(2, 16, 12, seed=1), draw(4, 12, seed=2)
    assert torch.allclose(pooled.pool(values, gates, ape), compressor.pool(values, gates, ape))
    ours = pooled.pool_overlapping(values, gates, ape, has_previous=False)
    theirs = compressor.pool_overlapping(values, gates, ape, has_previous=False)
    assert torch.allclose(ours, theirs, atol=1e-6)


@pytest.mark.parametrize(("numerics", "limit"), [(BF16, 1e-2), (EXACT, 1e-5)])
@pytest.mark.parametrize("tokens", [1, 1023, 1024, 2500])
def test_the_loss_in_pieces_has_the_value_and_gradients_of_the_whole(tokens, numerics, limit):
    x, head = draw(tokens, 32), draw(96, 32, seed=1)
    wanted = torch.randint(0, 96, (tokens,), generator=torch.Generator().manual_seed(2))

    def run(function, numerics):
        inputs = [x.clone().requires_grad_(), head.clone().requires_grad_()]
        loss = function(*inputs, wanted, numerics)
        (0.37 * loss / tokens).backward()
        return loss.detach(), *(i.grad for i in inputs)

    ours, dx, dw = run(compiled_loss.head_loss, numerics)
    theirs, want_dx, want_dw = run(loss.head_loss, EXACT)
    assert ours == pytest.approx(float(theirs), rel=limit / 5)
    assert (dx - want_dx).norm() < limit * want_dx.norm()
    assert (dw - want_dw).norm() < limit * want_dw.norm()


@pytest.mark.parametrize(("numerics", "limit"), [(BF16, 0.1), (EXACT, 1e-4)])
def test_a_whole_model_has_the_same_loss_and_gradients(numerics, limit):
    model = Transformer(preset("tiny"))
    init_weights(model, 0)
    ids = torch.randint(3, 512, (2, 64), generator=torch.Generator().manual_seed(1))
    # So that entries are chosen. Which, another order of sums might change: then draw other ids.
    assert ids.shape[1] // 4 > model.config.index_topk

    def run():
        model.zero_grad()
        out = model(ids)
        drafted = model.predict_next(out.streams_BTSD, ids)
        logits = torch.cat((out.logits_BTV, drafted.logits_BTV))
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), ids.repeat(2, 1).flatten())
        loss.backward()
        return loss.detach(), {
            n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None
        }

    loss, gradients = run()
    with compiled_ops():
        model.numerics = numerics
        fast_loss, fast_gradients = run()
    assert ops.linear.backend == "reference"
    assert float(fast_loss) == pytest.approx(float(loss), rel=limit / 100)
    assert set(fast_gradients) >= set(gradients)
    assert not any(fast_gradients[n].any() for n in set(fast_gradients) - set(gradients))
    for name in ("embed.weight", "head.weight", "layers.2.attn.wq_b.weight",
                 "layers.2.attn.compressor.wkv.weight", "layers.1.ffn.shared_experts.w1.weight",
                 "layers.0.attn.wo_a.weight", "mtp.0.h_proj.weight"):  # fmt: skip
        close(fast_gradients[name], gradients[name], limit)
