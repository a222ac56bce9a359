"""A faster form of the ops for training: bfloat16 products, compiled elementwise parts.

The same functions as the reference, with bfloat16 matrix products (float32 accumulation inside),
attention in blocks of queries, and all experts of a layer from one sorted buffer. Only what
training needs is covered: whole sequences, no decoding state, no sparse selection, weights that
are not quantised.

It pays on GPUs and on processors that multiply bfloat16 natively; others should train in float32.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from dsv4 import ops
from dsv4.numerics.policy import BF16, Numerics
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
def compiled_ops() -> Iterator[Numerics]:
    """Bind all ops to their compiled form inside a `with` block; gives the policy to run with."""
    for function in _OWN:
        getattr(ops, function.__name__).implementations[BACKEND] = function
    for name in _AS_REFERENCE:
        op = getattr(ops, name)
        op.implementations[BACKEND] = op.implementations["reference"]
    with ops.use(BACKEND):
        yield BF16
