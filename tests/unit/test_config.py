"""Presets, both file dialects, and one-line errors for everything that does not fit."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsv4 import config as configuration
from dsv4.config import ModelConfig, from_dict
from dsv4.errors import ConfigError
from dsv4.presets import PRESETS, preset


@pytest.mark.parametrize("name", PRESETS)
def test_presets_survive_both_dialects(name: str) -> None:
    original = preset(name)
    back = from_dict(json.loads(json.dumps(original.to_released())))
    same = original.scale_dtype  # the released file leaves it to the tensors
    assert back == replace(original, scale_dtype=back.scale_dtype)
    assert same in ("e8m0", "f32")
    if original.engram is not None:  # which transformers does not have
        with pytest.raises(ConfigError, match="no Engram"):
            original.to_transformers()
        original, back = replace(original, engram=None), replace(back, engram=None)
    other = from_dict(json.loads(json.dumps(original.to_transformers())))
    assert other == replace(back, expert_dtype=None)


def test_schedules_of_the_released_models() -> None:
    flash, pro = preset("flash"), preset("pro")
    assert len(flash.compress_ratios) == 44
    assert len(pro.compress_ratios) == 62
    assert [flash.layer_ratios.count(m) for m in (0, 4, 128)] == [2, 21, 20]
    assert [pro.layer_ratios.count(m) for m in (0, 4, 128)] == [0, 30, 31]
    assert flash.layer_ratios[2] == 4
    assert pro.layer_ratios[:3] == (128, 128, 4)


def test_transformers_accepts_what_we_write() -> None:
    from transformers import DeepseekV4Config

    ours = preset("flash")
    theirs = DeepseekV4Config(**ours.to_transformers())
    assert theirs.layer_types.count("compressed_sparse_attention") == 21
    assert theirs.qk_rope_head_dim == 64
    again = from_dict({k: v for k, v in theirs.to_dict().items() if v is not None})
    assert again == replace(ours, expert_dtype=None)


def changed(**values: Any) -> dict[str, Any]:
    return preset("tiny").to_released() | values


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (changed(hidden_sise=3), ["hidden_sise", "3"]),
        (changed(hidden_size="256"), ["hidden_size", "'256'", "integer"]),
        (changed(hidden_size=True), ["hidden_size", "True"]),
        (changed(hidden_size=0), ["hidden_size", "0", "1 to"]),
        (changed(hidden_size=2**80), ["hidden_size"]),
        (changed(rms_norm_eps=float("nan")), ["rms_norm_eps", "nan", "finite"]),
        (changed(rms_norm_eps=None), ["rms_norm_eps", "None"]),
        (changed(scoring_func="sigmoid"), ["scoring_func", "sigmoid", "sqrtsoftplus"]),
        (changed(model_type="deepseek_v3"), ["model_type", "deepseek_v3", "deepseek_v4"]),
        (changed(compress_ratios=[0, 0, 4]), ["compress_ratios", "6 entries"]),
        (changed(compress_ratios=[0, 0, 4, 128, 5, 0]), ["compress_ratios", "0, 4 or 128"]),
        (changed(compress_ratios=[0, 0, 4, 128, 4, 4]), ["compress_ratios", "MTP"]),
        (changed(compress_ratios="0,4"), ["compress_ratios", "list"]),
        (changed(num_experts_per_tok=9), ["num_experts_per_tok", "9", "1 to 8"]),
        (changed(o_groups=3), ["o_groups", "3", "divisor"]),
        (changed(qk_rope_head_dim=63), ["qk_rope_head_dim", "63", "even"]),
        (changed(index_head_dim=96), ["index_head_dim", "96", "power of two"]),
        (changed(eos_token_id=512), ["eos_token_id", "512", "below vocab_size"]),
        (changed(expert_dtype="int4"), ["expert_dtype", "int4", "fp4"]),
        (changed(rope_scaling={"type": "linear"}), ["rope_scaling.type", "linear", "yarn"]),
        (changed(rope_scaling={"type": "yarn", "mscale": 1}), ["rope_scaling.mscale"]),
        (changed(rope_scaling={"type": "yarn", "factor": -1}), ["rope_scaling.factor", "-1"]),
        (changed(rope_scaling=[1]), ["rope_scaling", "[1]"]),
        (changed(quantization_config={"quant_method": "awq"}), ["quant_method", "awq", "fp8"]),
        (changed(layer_types=["sliding_attention"] * 5), ["layer_types", "compress_ratios"]),
        (changed(layer_types=["full_attention"] * 5), ["layer_types", "full_attention"]),
        (changed(num_local_experts=9), ["num_local_experts", "9", "n_routed_experts = 8"]),
        (changed(num_hash_layers=6), ["num_hash_layers", "6", "0 to 5"]),
        (changed(mlp_layer_types=["moe", "hash_moe"]), ["mlp_layer_types"]),
        (changed(n_shared_experts=2), ["n_shared_experts", "2"]),
        (changed(num_nextn_predict_layers=2), ["num_nextn_predict_layers", "2"]),
        (changed(hidden_size="x" * 2_000_000), ["hidden_size", "..."]),
    ],
)
def test_errors_name_key_value_and_what_is_allowed(
    values: dict[str, Any], words: list[str]
) -> None:
    with pytest.raises(ConfigError) as caught:
        from_dict(values)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 400
    for word in words:
        assert word in message


def test_a_misspelt_key_gets_a_suggestion() -> None:
    with pytest.raises(ConfigError) as caught:
        from_dict(changed(hidden_sise=3))
    assert caught.value.hint == "did you mean hidden_size?"


def test_a_missing_key_is_named() -> None:
    values = preset("tiny").to_released()
    del values["o_lora_rank"]
    with pytest.raises(ConfigError, match="o_lora_rank is missing"):
        from_dict(values)


def test_draft_stages_are_recognised() -> None:
    values = changed(dspark_block_size=5, compress_ratios=[0, 0, 4, 128, 4, 0, 0, 0])
    assert from_dict(values).draft_stages == 3
    assert preset("tiny").draft_stages == 0


@pytest.mark.parametrize("text", ["", "[1]", "{", '{"a": NaN', "[" * 100_000, "\x00"])
def test_files_that_are_not_a_configuration(text: str, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(ConfigError):
        configuration.load(path)


def test_a_huge_file_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(changed(hidden_size="x" * 2_000_000)))
    with pytest.raises(ConfigError, match="bytes"):
        configuration.load(tmp_path)
    with pytest.raises(ConfigError, match="no configuration"):
        configuration.load(tmp_path / "elsewhere")


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)
KEYS = sorted(preset("tiny").to_released() | preset("tiny").to_transformers())


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.dictionaries(st.sampled_from(KEYS), ANYTHING, max_size=4))
def test_any_value_gives_a_configuration_or_a_one_line_error(values: dict[str, Any]) -> None:
    try:
        assert isinstance(from_dict(preset("tiny").to_released() | values), ModelConfig)
    except ConfigError as error:
        assert "\n" not in str(error)


def transformers_values(**values: Any) -> dict[str, Any]:
    return preset("tiny").to_transformers() | values


def nested(main: Any = None, compress: Any = None) -> dict[str, Any]:
    """`rope_parameters` of tiny with some settings replaced."""
    parts = preset("tiny").to_transformers()["rope_parameters"]
    return {"main": parts["main"] | (main or {}), "compress": parts["compress"] | (compress or {})}


def test_nested_rope_settings_are_read() -> None:
    values = transformers_values(
        rope_parameters=nested({"rope_theta": 5000.0}, {"rope_theta": 7e5, "factor": 4})
    )
    del values["rope_theta"], values["compress_rope_theta"]
    read = from_dict(values)
    assert (read.rope_theta, read.compress_rope_theta) == (5000.0, 7e5)
    assert read.rope_scaling.factor == 4


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (transformers_values(rope_parameters=nested({"rope_theta": 1e6})), ["main.rope_theta"]),
        (
            transformers_values(rope_parameters=nested(None, {"rope_theta": 5e5})),
            ["compress.rope_theta", "500000", "160000"],
        ),
        (
            transformers_values(rope_parameters=nested({"partial_rotary_factor": 0.25})),
            ["partial_rotary_factor", "0.25"],
        ),
        (transformers_values(rope_parameters="x"), ["rope_parameters", "'x'"]),
        (transformers_values(rope_parameters={"compress": None}), ["rope_parameters.main"]),
        (changed(rope_parameters=nested(None, {"factor": 2})), ["rope_parameters", "rope_scaling"]),
        (changed(layer_types=[{}]), ["layer_types"]),
        (changed(partial_rotary_factor=float("nan")), ["partial_rotary_factor", "nan"]),
        (changed(partial_rotary_factor=float("inf")), ["partial_rotary_factor", "inf"]),
        (changed(rms_norm_eps=10**400), ["rms_norm_eps"]),
        (changed(dspark_block_size=5, num_hidden_layers="x"), ["num_hidden_layers", "'x'"]),
        (changed(dspark_block_size=5, num_hidden_layers=None), ["num_hidden_layers", "None"]),
        (changed(dspark_block_size=5, num_hidden_layers=1e400), ["num_hidden_layers", "inf"]),
        (changed(compress_rope_theta=1.0), ["compress_rope_theta", "above 1"]),
        (changed(hc_sinkhorn_iters=2**31 - 1), ["hc_sinkhorn_iters", "1000"]),
        (changed(n_routed_experts=2**31 - 1), ["n_routed_experts", "65536"]),
        (changed(rope_scaling={"\n": None}), ["rope_scaling", "allowed"]),
    ],
)
def test_contradictions_and_impossible_values(values: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        from_dict(values)
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


@settings(max_examples=8, deadline=None, derandomize=True)
@given(value=ANYTHING | st.sampled_from([10**400, float("nan"), 1e308, -1, True, {}, [{}]]))
@pytest.mark.parametrize("key", [*KEYS, "dspark_block_size"])
def test_any_value_of_any_key(key: str, value: Any) -> None:
    for base in (preset("tiny").to_released(), preset("tiny").to_transformers()):
        for extra in ({}, {"dspark_block_size": 5}):
            try:
                assert isinstance(from_dict(base | extra | {key: value}), ModelConfig)
            except ConfigError as error:
                assert "\n" not in str(error)
