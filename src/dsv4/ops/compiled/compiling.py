"""torch.compile with the settings these ops need."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from torch import Tensor


@functools.cache
def compiled(function: Callable[..., Any], dynamic: bool | None = False) -> Callable[..., Any]:
    """The function compiled, by default anew for each of the few shapes of a run.

    Rows times positions of a batch are constant but for the last one of an epoch, so ops on
    flattened rows see few shapes. None: sizes that were seen to change become variables.
    """
    # Here, for it takes longer to import than torch, and most of what imports this never compiles.
    import torch._dynamo

    torch._dynamo.config.recompile_limit = 64
    return torch.compile(function, dynamic=dynamic)


def varying(x: Tensor) -> bool | None:
    """How to compile what sees a new shape for every length of the rows: anew on a CPU, where
    loops of known size are faster; with variables on a GPU, where compiling takes longest."""
    return None if x.is_cuda else False
