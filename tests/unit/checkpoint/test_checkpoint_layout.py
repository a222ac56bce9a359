"""The layout table reproduces the published checkpoints to the tensor and the byte."""

from __future__ import annotations

from collections import Counter
from math import prod

import pytest
import torch

from dsv4.checkpoint import layout
from dsv4.presets import preset

FLASH = (69_187, 159_609_485_896, 158_069_433_298, 46)
PRO = (145_116, 864_704_792_696, 861_608_274_846, 64)


@pytest.mark.parametrize(("name", "published"), [("flash", FLASH), ("pro", PRO)])
def test_counts_are_those_of_the_released_folders(
    name: str, published: tuple[int, int, int, int]
) -> None:
    config = preset(name)
    tensors = list(layout.tensors(config))
    assert len(tensors) == published[0]
    assert sum(spec.nbytes for spec in tensors) == published[1]
    assert sum(prod(spec.shape) for spec in tensors) == published[2]
    assert sum(1 for _ in layout.shards(config)) == published[3]
    assert len({spec.name for spec in tensors}) == len(tensors)


@pytest.mark.parametrize(
    ("name", "csa", "hca", "mtp"), [("flash", 1576, 1569, 1575), ("pro", 2344, 2337, 2343)]
)
def test_shards_hold_what_the_released_ones_do(name: str, csa: int, hca: int, mtp: int) -> None:
    config = preset(name)
    counts = [sum(len(p.stored()) for p in shard) for shard in layout.shards(config)]
    by_ratio = dict(zip(config.layer_ratios, counts[1:-2], strict=True))
    assert counts[0] == 1
    assert (by_ratio[4], by_ratio[128]) == (csa, hca)
    assert by_ratio.get(0, 1565) == 1565
    assert counts[-2:] == [5, mtp]
    assert all(p.name.startswith("mtp.0.") for p in list(layout.shards(config))[-1])


def test_base_checkpoints_have_fp8_experts_and_float_scales() -> None:
    specs = {
        spec.name: spec for spec in layout.tensors(layout.first_layers(preset("flash-base"), 1))
    }
    expert = specs["layers.0.ffn.experts.0.w1.weight"]
    assert (expert.shape, expert.dtype) == ((2048, 4096), torch.float8_e4m3fn)
    scale = specs["layers.0.ffn.experts.0.w1.scale"]
    assert (scale.shape, scale.dtype) == ((16, 32), torch.float32)
    scales = Counter(spec.dtype for name, spec in specs.items() if name.endswith(".scale"))
    assert set(scales) == {torch.float32}


def test_released_shapes_of_quantised_tensors() -> None:
    specs = {spec.name: spec for spec in layout.tensors(layout.first_layers(preset("flash"), 3))}
    want = {
        "layers.0.attn.wo_a.weight": ((8192, 4096), torch.float8_e4m3fn),
        "layers.0.attn.wo_a.scale": ((64, 32), torch.float8_e8m0fnu),
        "layers.2.attn.indexer.wq_b.weight": ((8192, 1024), torch.float8_e4m3fn),
        "layers.0.ffn.experts.255.w2.weight": ((4096, 1024), torch.int8),
        "layers.0.ffn.experts.255.w2.scale": ((4096, 64), torch.float8_e8m0fnu),
        "layers.0.ffn.gate.tid2eid": ((129280, 6), torch.int64),
        "mtp.0.e_proj.weight": ((4096, 4096), torch.float8_e4m3fn),
    }
    assert {name: (specs[name].shape, specs[name].dtype) for name in want} == want


def test_cutting_keeps_schedule_and_prediction_block() -> None:
    config = layout.first_layers(preset("flash"), 4)
    assert config.layer_ratios == (0, 0, 4, 128)
    assert config.compress_ratios == (0, 0, 4, 128, 0)
    assert config.num_hash_layers == 3
    assert layout.first_layers(preset("flash"), 2).num_hash_layers == 2
    assert not any(
        spec.name.startswith("mtp.") for spec in layout.tensors(layout.without_mtp(config))
    )
