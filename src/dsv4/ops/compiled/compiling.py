"""torch.compile with the settings these ops need."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch._dynamo


@functools.cache
def compiled(function: Callable[..., Any], dynamic: bool = False) -> Callable[..., Any]:
    """The function compiled, by default anew for each of the few shapes of a run.

    Rows times positions of a batch are constant, so ops on flattened rows see one shape.
    """
    torch._dynamo.config.recompile_limit = 64
    return torch.compile(function, dynamic=dynamic)
