"""generation_config.json: read, checked, and overridden by what a caller gives."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dsv4.chat.defaults import Defaults, read_defaults
from dsv4.errors import ConfigError, UsageError


def write(folder: Path, value: Any) -> Path:
    text = value if isinstance(value, str) else json.dumps(value)
    (folder / "generation_config.json").write_text(text, encoding="utf-8")
    return folder


def test_no_file(tmp_path: Path) -> None:
    assert read_defaults(tmp_path) == Defaults()


def test_transformers_keys_and_ours(tmp_path: Path) -> None:
    values = {
        "_from_model_config": True,
        "temperature": 1,
        "top_p": 0.95,
        "max_new_tokens": 64,
        "thinking": False,
    }
    assert read_defaults(write(tmp_path, values)) == Defaults(
        top_p=0.95, max_tokens=64, thinking=False
    )


def test_do_sample_false_is_greedy(tmp_path: Path) -> None:
    values = {"do_sample": False, "temperature": 0.7}
    assert read_defaults(write(tmp_path, values)).temperature == 0.0


@pytest.mark.parametrize(
    "value",
    [
        "{",
        "[]",
        {"temperature": "hot"},
        {"temperature": 9.0},
        {"top_k": 1.5},
        {"max_new_tokens": 0},
        {"thinking": "yes"},
    ],
)
def test_wrong_files(tmp_path: Path, value: Any) -> None:
    with pytest.raises(ConfigError):
        read_defaults(write(tmp_path, value))


def test_given_values_win() -> None:
    defaults = Defaults(temperature=0.5, top_p=0.9)
    sampling = defaults.sampling(7, temperature=0.0, top_p=None)
    assert (sampling.temperature, sampling.top_p, sampling.seed) == (0.0, 0.9, 7)


def test_given_values_are_checked() -> None:
    with pytest.raises(UsageError, match="top_p"):
        Defaults().sampling(top_p=3.0)
