"""Sizes and hash constants of Engram against those of the released V4.1 configuration."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dsv4.config import from_dict
from dsv4.engram import EngramConfig
from dsv4.errors import ConfigError
from dsv4.presets import preset

V41 = EngramConfig((1, 14), 4, 8, 256, 16_000_000, 99_092)


def test_released_table_sizes_and_multipliers() -> None:
    assert V41.rows == (384_006_168, 384_016_682)
    assert V41.primes[0][0] == 16_000_057 and V41.primes[0][-1] == 16_000_463
    assert V41.multipliers == (
        (76632096046245, 4839876093313, 35959672319349, 73987337458391),
        (67716810739261, 51510806800915, 30921347202721, 82619226485591),
    )
    assert (V41.hashes, V41.width, V41.lookback) == (24, 6144, 3)


def test_sizes_of_the_papers_demonstration() -> None:
    demo = EngramConfig((1, 15), 3, 8, 64, 646_400, 99_092)
    assert demo.rows == (10_344_164, 10_348_242)


def test_no_prime_is_used_twice_and_a_table_of_one_row_is_allowed() -> None:
    primes = [p for row in V41.primes for p in row]
    assert len(set(primes)) == len(primes) == 48
    assert replace(V41, vocab_size=1).rows == (24, 24)


def test_configuration_file_round_trip_keeps_multipliers() -> None:
    engram = EngramConfig((1, 3), 3, 2, 32, 97, 300)
    config = replace(preset("tiny"), engram=engram)
    values = config.to_released()
    assert values["engram_num_embeddings"] == list(engram.rows)
    assert from_dict(values) == config
    other = [[a + 2 for a in row] for row in values["engram_multipliers"]]
    read = from_dict(values | {"engram_multipliers": other})
    assert read.engram is not None and read.engram.multipliers != engram.multipliers


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("engram_layer_ids", [3, 1]),
        ("engram_layer_ids", [1, 9]),
        ("engram_layer_ids", []),
        ("engram_max_ngram_size", 1),
        ("engram_n_heads", 2.0),
        ("engram_num_embeddings", [5, 5]),
        ("engram_multipliers", [[1, 3, 5]]),
        ("engram_multipliers", [[2, 4, 6], [1, 3, 5]]),
        ("engram_multipliers", [[1, 3, 1 << 62], [1, 3, 5]]),
        ("engram_compressed_vocab_size", 0),
        ("engram_pad_id", 512),
        ("engram_conv", 1),
        ("engram_heads", 4),
    ],
)
def test_a_wrong_value_is_refused_by_name(key: str, value: object) -> None:
    engram = EngramConfig((1, 3), 3, 2, 32, 97, 300)
    values = replace(preset("tiny"), engram=engram).to_released()
    with pytest.raises(ConfigError, match=key):
        from_dict(values | {key: value})


def test_primes_that_would_take_long_to_find_are_not_looked_for() -> None:
    values = replace(preset("tiny"), engram=EngramConfig((1,), 3, 2, 32, 97, 300)).to_released()
    del values["engram_multipliers"], values["engram_num_embeddings"]
    many = {"engram_layer_ids": list(range(5)), "engram_max_ngram_size": 16, "engram_n_heads": 64}
    with pytest.raises(ConfigError, match="engram_n_heads"):
        from_dict(values | many)


def test_keys_as_others_spell_them() -> None:
    engram = EngramConfig((1, 3), 3, 2, 32, 97, 300, pad_id=7)
    values = replace(preset("tiny"), engram=engram).to_released()
    values["engram_pad_token_id"] = values.pop("engram_pad_id")
    values["engram_vocab_size"] = [97, 97]
    assert from_dict(values).engram == engram
    for wrong in ([97, 98], [97], [97] * 7):
        with pytest.raises(ConfigError, match="engram_vocab_size"):
            from_dict(values | {"engram_vocab_size": wrong})
    assert from_dict(values | {"engram_pad_id": 7}).engram == engram
    with pytest.raises(ConfigError, match="engram_pad_token_id"):
        from_dict(values | {"engram_pad_id": 2})
    with pytest.raises(ConfigError, match="engram_num_embeddings"):
        from_dict(values | {"engram_num_embeddings": 12})


def test_a_form_is_true_or_false() -> None:
    with pytest.raises(ConfigError, match="engram_conv"):
        EngramConfig((1,), 3, 2, 32, 97, 300, conv="no")  # type: ignore[arg-type]


def test_more_tokens_than_a_state_can_tell_apart_are_refused() -> None:
    values = replace(preset("tiny"), engram=EngramConfig((1,), 3, 2, 32, 97, 300)).to_released()
    with pytest.raises(ConfigError, match="vocab_size = 16777217"):
        from_dict(values | {"vocab_size": (1 << 24) + 1})
    assert from_dict(values | {"vocab_size": 1 << 24}).engram is not None


def test_a_missing_size_is_named() -> None:
    values = replace(preset("tiny"), engram=EngramConfig((1,), 3, 2, 32, 97, 300)).to_released()
    del values["engram_head_dim"]
    with pytest.raises(ConfigError, match="engram_head_dim is missing"):
        from_dict(values)
