"""DeepSeek-V4 as one package.

    import dsv4
    model = dsv4.load("nano")                     # bundled; or a folder, or a hub id
    model.logits([5, 8, 13])                      # [T, V] float32
    dsv4.pack_repo("src").text                    # a codebase as one prompt
    for event in dsv4.Engine(model).chat([{"role": "user", "content": "Hello"}]): ...

Names are resolved on first use, so `import dsv4` costs no torch import.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from dsv4.version import __version__

if TYPE_CHECKING:
    from dsv4.chat.engine import Engine as Engine
    from dsv4.chat.model import Model as Model
    from dsv4.chat.model import load as load
    from dsv4.config import ModelConfig as ModelConfig
    from dsv4.errors import Dsv4Error as Dsv4Error
    from dsv4.packing.pack import pack_repo as pack_repo

_HOMES = {
    "Dsv4Error": "dsv4.errors",
    "Engine": "dsv4.chat.engine",
    "Model": "dsv4.chat.model",
    "ModelConfig": "dsv4.config",
    "load": "dsv4.chat.model",
    "pack_repo": "dsv4.packing.pack",
}

__all__ = ["Dsv4Error", "Engine", "Model", "ModelConfig", "__version__", "load", "pack_repo"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'dsv4' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
