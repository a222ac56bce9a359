"""Costs of the released models against the figures of the technical report."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from dsv4.engram import EngramConfig
from dsv4.model import cost
from dsv4.model.transformer import Transformer
from dsv4.presets import preset

MILLION = 1 << 20


ENGRAM = EngramConfig((1, 4), 4, 2, 40, 300, 500)


@pytest.mark.parametrize("engram", [None, ENGRAM, dataclasses.replace(ENGRAM, conv=True)])
@pytest.mark.parametrize("name", ["flash", "pro", "nano", "tiny"])
def test_parameters_equal_the_tensors_of_a_built_model(
    name: str, engram: EngramConfig | None
) -> None:
    """Five layers and few experts: every kind of layer, without building 70,000 modules."""
    config = preset(name)
    config = dataclasses.replace(
        config,
        num_hidden_layers=5,
        compress_ratios=(*(config.layer_ratios * 2)[:5], 0),
        n_routed_experts=8,
        engram=engram,
    )
    with torch.device("meta"):
        model = Transformer(config)
    mtp = sum(p.numel() for key, p in model.named_parameters() if key.startswith("mtp."))
    counted = cost.parameters(config)
    assert counted.mtp == mtp
    assert counted.total == sum(p.numel() for p in model.parameters())


def test_engram_of_the_released_sizes() -> None:
    """196.6 B parameters and 12,672 bytes per token, as V4.1-Flash has them."""
    engram = EngramConfig((1, 14), 4, 8, 256, 16_000_000, 99_092)
    config = dataclasses.replace(preset("flash"), hidden_size=5120, engram=engram)
    counted, read = cost.parameters(config), cost.lookups(config)
    assert counted.tables == (384_006_168 + 384_016_682) * 256
    assert counted.engram == 2 * (25_600 * 6144 + 2 * 4 * 5120)
    assert (read.rows, read.nbytes) == (48, 12_672)
    without = cost.parameters(dataclasses.replace(config, engram=None))
    assert counted.active - without.active == counted.engram
    assert counted.main - without.main == counted.engram + counted.tables
    more = (
        cost.flops(config, 4096).linear
        - cost.flops(dataclasses.replace(config, engram=None), 4096).linear
    )
    assert more == 2 * counted.engram


@pytest.mark.parametrize(
    ("name", "main", "with_mtp", "active", "without_head"),
    [
        ("flash", 284.332, 290.942, 13.270, 12.741),
        ("pro", 1572.997, 1598.837, 48.852, 47.926),
    ],
)
def test_released_sizes(
    name: str, main: float, with_mtp: float, active: float, without_head: float
) -> None:
    counted = cost.parameters(preset(name))
    assert round(counted.main / 1e9, 3) == main
    assert round(counted.total / 1e9, 3) == with_mtp
    assert round(counted.active / 1e9, 3) == active
    assert round((counted.active - counted.head) / 1e9, 3) == without_head


@pytest.mark.parametrize(
    ("name", "per_token", "gib", "percent"),
    [("flash", 3508.8, 3.43, 7.30), ("pro", 5023.7, 4.91, 10.45)],
)
def test_cache_bytes(name: str, per_token: float, gib: float, percent: float) -> None:
    cache = cost.cache(preset(name))
    assert (cache.entry_bytes, cache.index_bytes) == (583, 68)
    assert round(cache.per_token, 1) == per_token
    assert round(cache.at(MILLION) / 2**30, 2) == gib
    assert round(100 * cache.per_token / cost.V32().bytes_per_token, 2) == percent


def test_cache_of_v32() -> None:
    assert cost.V32().bytes_per_token == 48_068


@pytest.mark.parametrize(
    ("name", "linear", "indexer", "attention", "raw", "fp8", "percent"),
    [
        ("flash", 26.5, 90.2, 23.6, 140.3, 120.6, 10.1),
        ("pro", 97.7, 128.8, 76.7, 303.2, 319.2, 26.7),
    ],
)
def test_flops_at_a_million_tokens(
    name: str,
    linear: float,
    indexer: float,
    attention: float,
    raw: float,
    fp8: float,
    percent: float,
) -> None:
    work = cost.flops(preset(name), MILLION)
    giga = [round(x / 1e9, 1) for x in (work.linear, work.indexer, work.attention, work.total)]
    assert giga == [linear, indexer, attention, raw]
    assert round(work.fp8_equivalent / 1e9, 1) == fp8
    reference = cost.V32().flops(MILLION)
    assert round(100 * work.fp8_equivalent / reference.fp8_equivalent, 1) == percent


def test_flops_of_v32() -> None:
    work = cost.V32().flops(MILLION)
    assert round(work.indexer / 1e9, 1) == 1048.0
    assert round(work.attention / 1e9, 1) == 34.8
    # The report's 37 B active parameters give 74.0; the sizes, indexer included, a little more.
    assert round(work.linear / 1e9) == 75


@pytest.mark.parametrize("name", ["flash", "pro", "nano"])
def test_work_grows_with_the_context_and_nothing_else_than_keys_does(name: str) -> None:
    config = preset(name)
    contexts = [1, 127, 128, 2048, 65536, MILLION]
    works = [cost.flops(config, n) for n in contexts]
    assert len({work.linear for work in works}) == 1
    totals = [work.total for work in works]
    assert totals == sorted(totals) and totals[0] < totals[-1]


def test_selection_bounds_the_attention() -> None:
    config = preset("flash")
    wide = dataclasses.replace(config, index_topk=1 << 18)
    # 512 selected entries of 4 tokens: below 2048 tokens the limit does not bind.
    assert cost.flops(config, 2000) == cost.flops(wide, 2000)
    assert cost.flops(config, 4000).attention < cost.flops(wide, 4000).attention
