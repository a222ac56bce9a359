"""Bytes and operations of a pass against counts by hand, and against the checkpoint's tensors.

`tiny`: hidden 256, experts 8 x 128 with 3 chosen, 4 heads x 128, query rank 128, 2 output groups
of rank 128, 16 index heads x 128 with 8 chosen, window 32; two sliding layers (hash-routed), then
CSA, HCA, CSA.
"""

from __future__ import annotations

import pytest

from dsv4.chat.model import Model
from dsv4.checkpoint import layout
from dsv4.evaluation import roofline
from dsv4.evaluation.machine import Ceilings
from dsv4.evaluation.roofline import Cost
from dsv4.model import cost

FP8 = 128 * 256 + 2  # a matrix of 128 x 256 with a scale per 128 x 128
FP8_SQUARE = 256 * 256 + 4
FP4 = 128 * 256 // 2 + 128 * 256 // 32
ENTRY, KEY = 64 + 2 * 64 + 8, 64 + 4


def test_bytes_of_the_first_step(fast: Model) -> None:
    """One key in the window, no entries, nothing to choose from."""
    vocabulary = fast.config.vocab_size
    step = {name: part.bytes for name, part in roofline.forward_cost(fast.transformer, 0).items()}
    compressor, narrow = 2 * 256 * 256 * 2, 2 * 128 * 256 * 2  # wkv and wgate, BF16
    norms = 128 * 2 + 128 * 2
    overlapping = 8 * 128 * 2 * 4 / 4 + (4 * 256 * 4 + 128 * 2) / 4  # rows; ape and norm
    plain = 128 * 128 * 2 * 4 / 128 + (128 * 128 * 4 + 128 * 2) / 128
    connection = 24 * 1024 * 4 + 24 * 4 + 3 * 4 + 256 * 2
    assert step == {
        "connect": 5 * 2 * connection + 4 * 1024 * 4 + 4 * 4 + 4 + 256 * 2,
        "project": 5 * 2 * FP8 + 2 * 2 * compressor + narrow,
        "compress": 5 * norms + 2 * 2 * overlapping + plain,
        "query": 5 * (512 * 128 + 4),
        "select": 0,
        "attend": 5 * (ENTRY + 4 * 4),
        "output": 5 * 2 * FP8_SQUARE,
        "route": 5 * 8 * 256 * 2 + 2 * 3 * 8 + 3 * 8 * 4,
        "gate_up": 5 * (3 * 2 * FP4 + 2 * FP8),
        "down": 5 * (3 * FP4 + FP8),
        "head": vocabulary * 256 * 2,
        "embed": 256 * 2,
        "memory": 0,
    }


def test_a_step_that_chooses_reads_keys_and_chosen_entries(fast: Model) -> None:
    """The 65th token: 16 entries in a CSA layer of which 8 are read, none in the HCA layer."""
    first = roofline.forward_cost(fast.transformer, 0)
    step = roofline.forward_cost(fast.transformer, 64)
    assert step["project"].bytes - first["project"].bytes == 2 * 16 * 256 * 2
    assert step["query"].bytes - first["query"].bytes == 2 * (2048 * 128 + 16)
    assert step["select"] == Cost(2 * 16 * KEY, 2 * 16 * 16 * (2 * 128 + 2))
    rows = 5 * 32 + 2 * 8
    assert step["attend"] == Cost(rows * ENTRY + 5 * 16, 4 * 4 * 128 * rows)
    assert step["attend"].flops == cost.flops(fast.config, 64).attention


def test_products_are_two_operations_per_active_parameter(fast: Model) -> None:
    """Against the count of parameters, which is made from the configuration."""
    config, step = fast.config, roofline.forward_cost(fast.transformer, 64)
    stages = ("project", "query", "output", "route", "gate_up", "down", "head")
    products = sum(step[name].flops for name in stages) / 2
    counted = cost.parameters(config)
    vectors = 5 * (128 + 128 + 4) + 3 * 8  # norms and sinks of attention, router bias
    vectors += 4 * (4 * 256 + 128) + 128 * 128 + 128  # ape and norm of the compressors
    assert products == counted.active - counted.hyper - counted.norms - vectors


def test_a_pass_that_meets_every_expert_reads_the_whole_model_once(fast: Model) -> None:
    config, model = fast.config, fast.transformer
    tokens = 128  # a whole HCA block
    everyone = [config.n_routed_experts] * config.num_hidden_layers
    read = roofline.total(roofline.forward_cost(model, 0, tokens, everyone)).bytes
    weights = sum(
        spec.nbytes
        for spec in layout.tensors(config)
        if not spec.name.startswith(("mtp.", "embed.")) and "tid2eid" not in spec.name
    )
    looked_up = tokens * (config.hidden_size * 2 + 2 * 3 * 8)
    # Window rows; entries of the two CSA layers and the HCA layer; keys of the CSA layers.
    cached = 5 * 128 * ENTRY + (2 * 32 + 1) * ENTRY + 2 * 32 * KEY
    # Values and gates that are pooled: two series of the CSA compressors, one of the HCA one.
    pooled = 2 * 4 * 128 * (2 * 2 * 2 * 128 + 128)
    assert read == weights + looked_up + cached + pooled


def test_many_tokens_share_their_weights(fast: Model) -> None:
    model = fast.transformer
    one, many = roofline.forward_cost(model, 0, 1), roofline.forward_cost(model, 0, 100)
    assert many["output"].bytes == one["output"].bytes
    assert many["output"].flops == 100 * one["output"].flops
    assert one["gate_up"].bytes < many["gate_up"].bytes < 3 * one["gate_up"].bytes
    assert many["head"] == one["head"]
    assert roofline.expected_experts(model, 1) == pytest.approx(3)


def test_a_prompt_is_its_chunks(fast: Model) -> None:
    model = fast.transformer
    whole = roofline.prompt_cost(model, 700)
    first, second = roofline.forward_cost(model, 0, 512), roofline.forward_cost(model, 512, 188)
    assert whole == roofline.add([first, second])


def test_the_floor_is_the_longer_of_reading_and_computing(ceilings: Ceilings) -> None:
    assert Cost(10e9, 1e9).floor(ceilings) == 1.0
    assert Cost(1e9, 200e9).floor(ceilings) == 2.0
    costs = {"a": Cost(10e9, 1e9), "b": Cost(1e9, 200e9)}
    assert roofline.floor(costs, ceilings) == 3.0
    assert roofline.total(costs) == Cost(11e9, 201e9)
