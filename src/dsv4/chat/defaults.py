"""How a model answers when nobody says otherwise: the `generation_config.json` of its folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from dsv4.engine.sampler import Sampling
from dsv4.errors import ConfigError, UsageError

FILE_NAME = "generation_config.json"
MAX_FILE_BYTES = 1 << 16

_KEYS = {
    "temperature": (float, "temperature"),
    "top_p": (float, "top_p"),
    "top_k": (int, "top_k"),
    "min_p": (float, "min_p"),
    "max_new_tokens": (int, "max_tokens"),
    "thinking": (bool, "thinking"),
}
"""Keys that are read -> (kind, field); `thinking` is ours, the others are transformers'."""


@dataclass(frozen=True, slots=True)
class Defaults:
    """Sampling, length and thinking of an answer whose request leaves them open."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    max_tokens: int = 4096
    thinking: bool = True

    def __post_init__(self) -> None:
        self.sampling()
        if self.max_tokens < 1:
            raise UsageError(f"max_tokens = {self.max_tokens} is out of range", "at least 1")

    @property
    def effort(self) -> str:
        """How hard to think, as a request says it."""
        return "high" if self.thinking else "none"

    def sampling(self, seed: int | None = None, **given: Any) -> Sampling:
        """These values, with those in `given` that are not None in their place; `given` may
        name any field of Sampling."""
        here = {field.name for field in fields(self)}
        names = [field.name for field in fields(Sampling) if field.name in here]
        values: dict[str, Any] = {name: getattr(self, name) for name in names}
        values |= {name: value for name, value in given.items() if value is not None}
        return Sampling(**values, seed=seed)


def write_defaults(folder: Path, values: Mapping[str, Any]) -> None:
    """Write a model folder's defaults; the keys are those of the file."""
    assert values.keys() <= _KEYS.keys(), values
    text = json.dumps(dict(values), indent=2) + "\n"
    (folder / FILE_NAME).write_text(text, encoding="utf-8")


def read_defaults(folder: Path) -> Defaults:
    """Defaults of a model folder. Raises ConfigError for a file with wrong values."""
    path = folder / FILE_NAME
    if not path.is_file():
        return Defaults()
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ConfigError(f"{path} is larger than {MAX_FILE_BYTES >> 10} KiB")
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is not JSON: {error}", "mend or delete it") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path} does not hold a JSON object", "mend or delete it")
    read: dict[str, Any] = {}
    for key, (kind, name) in _KEYS.items():
        value = values.get(key)
        if value is None:
            continue
        if kind is float and type(value) is int:
            value = float(value)
        if type(value) is not kind:
            raise ConfigError(f"{path}: {key} = {value!r} is not valid", f"a {kind.__name__}")
        read[name] = value
    if values.get("do_sample") is False:
        read["temperature"] = 0.0
    try:
        return Defaults(**read)
    except UsageError as error:
        raise ConfigError(f"{path}: {error}", error.hint) from error
