"""The native forms of sublayers against their op-by-op form, for every instruction set.

Both round the same numbers to bfloat16, FP8 and FP4. Where a sum differs in its last bit, a value
on the edge between two roundings may fall to either side, so the norm of the difference decides.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dsv4 import checkpoint, ops
from dsv4.config import CSA, HCA, SWA, ModelConfig
from dsv4.engram import EngramConfig
from dsv4.model.block import Block, collapse_head
from dsv4.model.state import LayerState
from dsv4.model.transformer import Transformer
from dsv4.numerics.policy import FAST
from dsv4.ops.cpu.native import native
from dsv4.presets import preset
from tests.parity.models import SAME_ORDER, SCHEDULES, draw_config, draw_model, tokens, with_engram

pytestmark = pytest.mark.skipif(native is None, reason="no native kernels")

SETS = native.instruction_sets() if native is not None else []


@pytest.fixture(params=SETS)
def instruction_set(request: pytest.FixtureRequest) -> Iterator[str]:
    """Every instruction set this machine and build have, one after the other."""
    chosen = native.instruction_set()
    assert native.use_instruction_set(request.param)
    yield request.param
    native.use_instruction_set(chosen)


@cache
def drawn(kind: str, seed: int) -> tuple[ModelConfig, Transformer]:
    """A random model with plain weights."""
    config = draw_config(seed, SCHEDULES["flash" if kind == "engram" else kind])
    if kind == "engram":
        config = with_engram(config, seed)
    model = draw_model(config, seed)
    model.numerics = FAST
    return config, model


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Transformer:
    """A model whose weights lie in the released formats, FP8 and FP4."""
    folder: Path = tmp_path_factory.mktemp("stored")
    config = replace(
        preset("tiny"),
        compress_ratios=(SWA, CSA, HCA, SWA),
        num_hidden_layers=3,
        engram=EngramConfig((0, 2), 3, 2, 40, 300, 400),
    )
    checkpoint.synth(config, folder / "model")
    return checkpoint.load(folder / "model", FAST)


def distance(found: Tensor, want: Tensor) -> float:
    return float((found - want).norm() / want.norm())


@torch.no_grad()
def layers(model: Transformer, length: int, seed: int) -> Iterator[tuple[Block, Tensor, Tensor]]:
    """(layer, its streams, ids) of a forward pass over random ids, op by op."""
    ids = tokens(model.config, length, seed)
    streams = model.embed(ids, torch.float32).unsqueeze(2).expand(-1, -1, model.config.hc_mult, -1)
    state = model.new_state()
    for layer, part in zip(model.layers, state.layers, strict=True):
        assert isinstance(layer, Block)
        yield layer, streams.contiguous(), ids
        with ops.unfused():
            streams = through(model, layer, streams, ids, part)


def through(
    model: Transformer, layer: Block, streams: Tensor, ids: Tensor, state: LayerState
) -> Tensor:
    """The streams after a layer that sees these ids at the start of a text."""
    ticket = None
    if layer.engram is not None:
        assert model.ngrams is not None
        ticket = layer.engram.submit(model.ngrams(ids, None, 0)[layer.engram.number], FAST)
    out: Tensor = layer(streams, ids, 0, state, FAST, ticket)[0]
    return out


@torch.no_grad()
def compare(model: Transformer, length: int) -> dict[str, float]:
    """The largest distance of each kind of sublayer, on the inputs of a forward pass."""
    found: dict[str, float] = {}

    def note(kind: str, fast: Tensor, want: Tensor) -> None:
        assert fast.shape == want.shape and bool(torch.isfinite(fast).all())
        found[kind] = max(found.get(kind, 0.0), distance(fast, want))

    for index, (layer, streams, ids) in enumerate(layers(model, length, length)):
        x = torch.randn(1, length, model.config.hidden_size)
        fast_state, state = model.new_state().layers[index], model.new_state().layers[index]
        fast = layer.attn(x, 0, fast_state, FAST)
        mixed, choice = layer.ffn(x, ids, FAST)
        block = through(model, layer, streams, ids, model.new_state().layers[index])
        with ops.unfused():
            note("attention", fast, layer.attn(x, 0, state, FAST))
            want, wanted = layer.ffn(x, ids, FAST)
            note(
                "block", block, through(model, layer, streams, ids, model.new_state().layers[index])
            )
        note("mixture", mixed, want)
        assert torch.equal(choice.experts_NK, wanted.experts_NK)
        note("affinities", choice.scores_NE, wanted.scores_NE)
        for (name, log), (_, other) in zip(fast_state.logs(), state.logs(), strict=True):
            count = length // layer.attn.ratio
            if count:
                note(name, log.read(count), other.read(count))
        note("window", fast_state.window.read(max(0, length - 16), length),
             state.window.read(max(0, length - 16), length))  # fmt: skip
    head = collapse_head(streams, model, FAST)
    with ops.unfused():
        note("collapse", head, collapse_head(streams, model, FAST))
    return found


# What rounding at the edge costs: a flip moves one bfloat16 by 2^-8 of it, one FP8 entry by up to
# 2^-4, one FP4 channel by up to half. Without flips all are near 1e-7.
BOUNDS = {
    "affinities": 1e-6,
    "collapse": 1e-6,
    "mixture": 3e-4,
    "attention": 5e-3,
    "block": 5e-3,
    "window": 1e-2,
    "compressor.entries": 1e-2,
    "indexer.entries": 2e-2,
}


@pytest.mark.parametrize("kind", [*SCHEDULES, "engram"])
@pytest.mark.parametrize("length", [1, 3, 127, 129, 300])
def test_plain_weights(kind: str, length: int, instruction_set: str) -> None:
    _, model = drawn(kind, 11)
    found = compare(model, length)
    assert {name: value for name, value in found.items() if value > BOUNDS[name]} == {}


@pytest.mark.parametrize("length", [1, 7, 140])
def test_stored_weights(stored: Transformer, length: int, instruction_set: str) -> None:
    found = compare(stored, length)
    assert {name: value for name, value in found.items() if value > BOUNDS[name]} == {}


def test_the_papers_form_runs_in_its_parts_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    config = with_engram(draw_config(11, SCHEDULES["flash"]), 11, conv=True)
    model = draw_model(config, 11)
    model.numerics = FAST
    ids = tokens(config, 6, 1)
    with torch.no_grad():
        found = model(ids).logits_BTV
        assert "model runs in its parts, slowly: Engram's convolution" in caplog.text
        with ops.unfused():
            want = model(ids).logits_BTV
    # Where sums are taken in another order, a tie of the cache's FP8 may fall otherwise.
    assert distance(found, want) < (1e-6 if SAME_ORDER else 5e-3)


@pytest.mark.parametrize("kind", ["flash", "engram"])
def test_threads_do_not_change_a_bit(kind: str) -> None:
    config, model = drawn(kind, 11)
    ids = tokens(config, 200, 5)
    before = native.thread_count()
    results = []
    try:
        for threads in (1, 2, 3):
            native.set_thread_count(threads)
            with torch.no_grad():
                results.append(model(ids).logits_BTV)
    finally:
        native.set_thread_count(before)
    assert all(torch.equal(results[0], other) for other in results[1:])


def test_a_replaced_weight_is_used() -> None:
    from dsv4.model.weights import get_weight, set_weight

    config, _ = drawn("flash", 11)
    model = draw_model(config, 12)
    model.numerics = FAST
    ids = tokens(config, 20, 5)
    with torch.no_grad():
        before = model(ids).logits_BTV
        weight = get_weight(model, "layers.2.ffn.shared_experts.w2.weight")
        assert isinstance(weight, Tensor)
        set_weight(model, "layers.2.ffn.shared_experts.w2.weight", weight * 2)
        after = model(ids).logits_BTV
        set_weight(model, "layers.2.ffn.shared_experts.w2.weight", weight)
        assert not torch.equal(before, after)
        assert torch.equal(model(ids).logits_BTV, before)
