"""A faster form of the ops for training: compiled elementwise parts, products as the policy says.

The same functions as the reference, with attention in blocks of queries and the loss in pieces.
With the policy BF16 matrix products are of bfloat16 (float32 accumulation inside) and all experts
of a layer come from one sorted buffer; with EXACT everything stays float32. Only what training
needs is covered: whole sequences, no decoding state, weights that are not quantised.

bfloat16 pays on GPUs and on processors that multiply it natively, float32 on all others.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from dsv4 import ops
from dsv4.ops.compiled import attention, engram, hyper, loss, moe, primitives

BACKEND = "compiled"

_OWN: tuple[Callable[..., Any], ...] = (
    primitives.linear,
    primitives.linear_f32,
    primitives.grouped_linear,
    primitives.rms_norm,
    primitives.head_norm,
    primitives.rotate,
    primitives.pool,
    primitives.pool_overlapping,
    attention.attend,
    hyper.mixing_logits,
    hyper.coefficients,
    hyper.collapse,
    hyper.expand,
    moe.mixture,
    moe.swiglu,
    engram.engram_gate,
    loss.head_loss,
)
_AS_REFERENCE = (
    "hadamard",
    "select",
    "affinities",
    "top_experts",
    "routing_weights",
    "ngram_rows",
    "engram_conv",
)


@contextlib.contextmanager
def compiled_ops() -> Iterator[None]:
    """Bind all ops to their compiled form inside a `with` block; for policies BF16 and EXACT."""
    for function in _OWN:
        getattr(ops, function.__name__).implementations[BACKEND] = function
    for name in _AS_REFERENCE:
        op = getattr(ops, name)
        op.implementations[BACKEND] = op.implementations["reference"]
    with ops.use(BACKEND):
        yield
