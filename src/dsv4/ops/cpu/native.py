"""The C++ kernels, or why there are none. Nothing else imports the compiled module.

An installation without them is complete: every op has a reference in torch.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

_NAME = "dsv4.ops.cpu._native"
_CHECKOUT = Path(__file__).resolve().parents[4]


def _load() -> tuple[Any, str, str]:
    """(module, "", "") or (None, why it is missing, how to get it)."""
    in_checkout = (_CHECKOUT / "CMakeLists.txt").is_file() and (_CHECKOUT / "csrc").is_dir()
    rebuild = (
        "run `make native`"
        if in_checkout
        else "install dsv4 again (pip install --force-reinstall --no-deps)"
    )
    try:
        return importlib.import_module(_NAME), "", ""
    except ModuleNotFoundError as error:
        if error.name != _NAME:
            return None, f"it does not load: {error}", rebuild
    except ImportError as error:
        return None, f"it does not load: {' '.join(str(error).split())}", rebuild
    why = "not built in this checkout" if in_checkout else "installed without a C++ compiler"
    others = sorted(Path(__file__).parent.glob("_native.*.so"))
    if others:
        why = f"built for another Python ({others[0].name})"
    return None, why, f"with a C++17 compiler (on Debian: g++), {rebuild}"


native: Any
native, _why, _how = _load()


def reason() -> str:
    """Why `native` is None, on one line; empty when it is there."""
    return _why


def hint() -> str:
    """What would mend it; empty when nothing is missing."""
    return _how
