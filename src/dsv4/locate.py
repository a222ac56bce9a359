"""Which folder a model argument means: a bundled name, a folder, or a hub id.

Nothing here reads weights, so looking a model up costs no torch import.
"""

from __future__ import annotations

import re
from pathlib import Path

from dsv4.errors import CheckpointError

DEFAULT = "nano"
"""The model a command takes when none is named."""

_PACKAGE = Path(__file__).resolve().parent
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def bundled_roots() -> tuple[Path, ...]:
    """Folders that may hold bundled models: the repository's `models`, the installed copy."""
    return (_PACKAGE.parents[1] / "models", _PACKAGE / "bundled")


def bundled() -> dict[str, Path]:
    """Name -> folder of every model that came with this installation."""
    found: dict[str, Path] = {}
    for root in bundled_roots():
        for config in sorted(root.glob("*/config.json")):
            found.setdefault(config.parent.name, config.parent)
    return found


def folder(model: str | Path) -> Path:
    """The folder of `model`: a folder with a config.json, a bundled name, or a hub id.

    An existing folder wins over a name. A hub id (`owner/name`) is downloaded with
    huggingface_hub. Raises CheckpointError when nothing of these fits.
    """
    path = Path(model).expanduser()
    if (path / "config.json").is_file():
        return path
    names = bundled()
    if str(model) in names:
        return names[str(model)]
    if path.is_dir():
        raise CheckpointError(
            f"{path} holds no config.json", "a model folder holds config.json and *.safetensors"
        )
    if path.is_file():
        raise CheckpointError(f"{path} is a file", "give the folder that holds config.json")
    if _HUB_ID.fullmatch(str(model)) and not path.is_absolute():
        return _download(str(model))
    known = ", ".join(names) or "none bundled"
    raise CheckpointError(
        f"no model called {str(model)!r}", f"give a folder, a hub id (owner/name) or: {known}"
    )


def _download(hub_id: str) -> Path:
    """Fetch a model from the hub (or find it in the local hub cache)."""
    from huggingface_hub import snapshot_download

    try:
        return Path(
            snapshot_download(hub_id, allow_patterns=["*.json", "*.safetensors", "*.txt", "*.md"])
        )
    except Exception as error:  # the hub client raises a dozen unrelated types
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else repr(error)
        raise CheckpointError(
            f"cannot fetch {hub_id} from the hub: {reason}",
            "if a folder was meant, check its path; the hub needs a network",
        ) from error
