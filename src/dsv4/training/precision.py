"""In what form a model is trained: precision, device, recomputation."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Literal

import torch

from dsv4 import parallel
from dsv4.errors import UsageError
from dsv4.model.block import Block
from dsv4.model.parameters import Table
from dsv4.model.transformer import Transformer
from dsv4.numerics.policy import BF16, EXACT
from dsv4.ops.compiled import compiled_ops
from dsv4.training.indexer import read_densely

Precision = Literal["float32", "float32-compiled", "bfloat16"]
"""The last two have compiled ops (`ops/compiled`), so that the first steps wait for a compiler,
minutes in all, and the others take less time."""


def muon_dtype(precision: Precision) -> torch.dtype:
    """What Muon's products are computed in."""
    return torch.bfloat16 if precision == "bfloat16" else torch.float32


def check_device(device: str) -> None:
    """Raise UsageError for a GPU that this machine does not have."""
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise UsageError(f"no device {device} here", "leave it out to train on the CPU")


@contextlib.contextmanager
def training_form(
    model: Transformer, precision: Precision, *, device: str = "cpu", recompute: bool = False
) -> Iterator[None]:
    """Have a model ready for training inside a `with` block, and as before (on the CPU) after it.

    Raises UsageError if this machine does not have the device.
    """
    check_device(device)
    numerics = model.numerics
    model.to(device)
    _prepare(model, recompute=recompute, sparse=parallel.alone())
    with contextlib.ExitStack() as stack:
        if precision != "float32":
            stack.enter_context(compiled_ops())
            model.numerics = BF16 if precision == "bfloat16" else EXACT
        try:
            yield
        finally:
            model.numerics = numerics
            read_densely(model, False)
            _prepare(model, recompute=False, sparse=False)
            model.to("cpu")


def _prepare(model: Transformer, *, recompute: bool, sparse: bool) -> None:
    """How layers keep what the backward pass needs, and what gradients tables have (divided ones
    have whole ones)."""
    for module in model.modules():
        if isinstance(module, Block):
            module.recompute = recompute
        elif isinstance(module, Table):
            module.sparse = sparse
