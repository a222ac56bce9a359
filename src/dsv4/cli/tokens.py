"""Reading a file of token ids."""

from __future__ import annotations

import json
from pathlib import Path

from dsv4.errors import UsageError

_FORMS = "a JSON list, ids separated by white space, or safetensors with a tensor `tokens`"


def read_tokens(path: Path) -> list[int]:
    """Ids of a file in one of three forms. Raises UsageError naming what is wrong."""
    try:
        if path.suffix == ".safetensors":
            return _from_safetensors(path)
        text = path.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}", f"give {_FORMS}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not a text file", f"give {_FORMS}") from error
    try:
        values = json.loads(text) if text.startswith("[") else [int(x) for x in text.split()]
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} holds something else than ids: {error}", _FORMS) from error
    if not isinstance(values, list) or any(type(value) is not int for value in values):
        raise UsageError(f"{path} holds something else than integers", _FORMS)
    if not values:
        raise UsageError(f"{path} holds no ids", _FORMS)
    return values


def _from_safetensors(path: Path) -> list[int]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            if "tokens" not in file.keys():  # noqa: SIM118 (not a mapping)
                raise UsageError(f"{path} has no tensor `tokens`", _FORMS)
            tensor = file.get_tensor("tokens")
    except SafetensorError as error:
        raise UsageError(f"{path} is not a sound safetensors file: {error}", _FORMS) from error
    if tensor.dim() != 1 or tensor.is_floating_point() or tensor.numel() == 0:
        raise UsageError(
            f"`tokens` in {path} is {tensor.dtype} {list(tensor.shape)}", "it has to be integer [T]"
        )
    return [int(value) for value in tensor.tolist()]
