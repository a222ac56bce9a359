"""Model parts that parity does not pin down: rotary tables, gradients, initial weights."""

from __future__ import annotations

import math

import pytest
import torch
from tests.parity.models import FLASH_LIKE, draw_config, draw_model, tokens

from dsv4.errors import UsageError
from dsv4.model.rope import frequencies
from dsv4.model.transformer import Transformer
from dsv4.model.weights import (
    expand_quantized,
    get_weight,
    init_weights,
    set_weight,
    weights,
)
from dsv4.numerics.quantized import FP8, QuantizedTensor, quantize
from dsv4.presets import preset


def test_yarn_table_of_the_released_models() -> None:
    config = preset("flash")
    plain, yarn = frequencies(config, 0), frequencies(config, 4)
    base = [160000 ** (-2 * j / 64) for j in range(32)]
    assert plain.tolist() == pytest.approx([10000 ** (-2 * j / 64) for j in range(32)], rel=1e-5)
    assert yarn[:16].tolist() == pytest.approx(base[:16], rel=1e-5)
    assert yarn[16].item() == pytest.approx(0.0025 * 0.90625, rel=1e-5)
    assert yarn[20].item() == pytest.approx(2.969778e-4, rel=1e-5)
    assert yarn[25:].tolist() == pytest.approx([w / 16 for w in base[25:]], rel=1e-5)
    assert yarn[31].item() == pytest.approx(5.680529e-7, rel=1e-5)
    assert torch.equal(yarn, frequencies(config, 128))


def test_exact_is_differentiable_everywhere() -> None:
    """Directional derivative of the loss against central differences, and no dead weight."""
    config = draw_config(3, FLASH_LIKE)
    model = draw_model(config, 3)
    ids = tokens(config, 150, 3)

    def loss() -> torch.Tensor:
        out = model(ids[:, :-2])
        main = torch.nn.functional.cross_entropy(out.logits_BTV[0], ids[0, 1:-1])
        mtp = model.predict_next(out.streams_BTSD, ids[:, 1:-1])
        return main + torch.nn.functional.cross_entropy(mtp.logits_BTV[0], ids[0, 2:])

    loss().backward()
    unused = {name for name, p in model.named_parameters() if p.requires_grad and p.grad is None}
    # Selection is a hard choice: the indexer learns from its own loss, not through this one.
    # An expert that no token chose has nothing to learn either.
    assert all("indexer" in name or ".experts." in name for name in unused), unused
    for name in ("layers.2.attn.compressor.ape", "layers.3.attn.wkv.weight", "hc_head_fn"):
        weight = get_weight(model, name)
        assert isinstance(weight, torch.nn.Parameter)
        assert weight.grad is not None
        direction = weight.grad / weight.grad.norm()  # where the slope stands out of the noise
        step = 3e-3
        with torch.no_grad():
            weight += step * direction
            up = loss().item()
            weight -= 2 * step * direction
            down = loss().item()
            weight += step * direction
        slope = (weight.grad * direction).sum().item()
        assert (up - down) / (2 * step) == pytest.approx(slope, rel=0.02), name


def test_initial_weights_depend_on_the_seed_alone() -> None:
    config = preset("tiny")
    first, second, other = Transformer(config), Transformer(config), Transformer(config)
    torch.manual_seed(1)
    init_weights(first, 5)
    torch.manual_seed(2)
    init_weights(second, 5)
    init_weights(other, 6)
    for (name, a), (_, b) in zip(weights(first), weights(second), strict=True):
        assert isinstance(a, torch.Tensor)
        assert torch.equal(a, b), name  # type: ignore[arg-type]
        assert torch.isfinite(a.float()).all(), name
    assert not torch.equal(first.embed.weight, other.embed.weight)
    # An untrained model knows nothing: its loss is that of a uniform guess.
    ids = tokens(config, 64, 0)
    logits = first(ids).logits_BTV
    assert torch.nn.functional.cross_entropy(logits[0], ids[0]).item() == pytest.approx(
        math.log(config.vocab_size), abs=0.3
    )


def test_hash_table_is_balanced_and_never_repeats_an_expert() -> None:
    config = preset("tiny")
    model = Transformer(config)
    init_weights(model, 0)
    table = get_weight(model, "layers.0.ffn.gate.tid2eid")
    assert isinstance(table, torch.Tensor)
    assert all(len(set(row)) == len(row) for row in table.tolist())
    load = torch.bincount(table.flatten(), minlength=config.n_routed_experts)
    assert load.max() < 1.4 * load.float().mean()


def test_a_quantised_weight_takes_the_place_of_a_parameter() -> None:
    config = preset("tiny")
    model = Transformer(config)
    init_weights(model, 0)
    name = "layers.1.attn.wq_b.weight"
    dense = get_weight(model, name)
    assert isinstance(dense, torch.Tensor)
    names = [n for n, _ in weights(model)]
    set_weight(model, name, quantize(dense, FP8))
    assert isinstance(get_weight(model, name), QuantizedTensor)
    assert sorted(n for n, _ in weights(model)) == sorted(names)
    ids = tokens(config, 20, 0)
    before = model(ids).logits_BTV
    expand_quantized(model)
    assert torch.equal(model(ids).logits_BTV, before)


def test_no_mtp_block_no_prediction() -> None:
    config = preset("tiny")
    model = Transformer(config)
    init_weights(model, 0)
    del model.mtp[0]
    with pytest.raises(UsageError, match="no MTP block"):
        model.predict_next(torch.zeros(1, 1, 4, config.hidden_size), torch.zeros(1, 1).long())


def test_context_limit() -> None:
    from dataclasses import replace

    config = replace(preset("tiny"), max_position_embeddings=10)
    model = Transformer(config)
    init_weights(model, 0)
    state = model.new_state()
    model(torch.zeros(1, 10, dtype=torch.int64), state)
    with pytest.raises(UsageError, match="11 tokens exceed the context of 10"):
        model(torch.zeros(1, 1, dtype=torch.int64), state)
