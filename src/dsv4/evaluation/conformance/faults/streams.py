"""Known failures in hyper-connections."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from dsv4 import ops
from dsv4.evaluation.conformance.faults.fault import Fault, computed, into, swapped
from dsv4.ops.reference import hyper

FAULTS: dict[str, Fault] = {}
_fault = into(FAULTS)


@_fault(9, "the mixing matrix is not transposed", "X'_b sums comb[a, b] X_a over a")
def _comb_not_transposed() -> Iterator[None]:
    reference = ops.expand._bound

    def expand(y: Tensor, streams: Tensor, post: Tensor, comb: Tensor, numerics: Any) -> Tensor:
        return reference(y, streams, post, comb.transpose(-1, -2), numerics)

    with computed(ops.expand, expand):
        yield


@_fault(9, "expansion weights without their factor 2", "post = 2 * sigmoid(...)")
def _post_not_doubled() -> Iterator[None]:
    reference = ops.coefficients._bound

    def coefficients(*args: Any) -> tuple[Tensor, Tensor, Tensor]:
        pre, post, comb = reference(*args)
        return pre, post / 2, comb

    with computed(ops.coefficients, coefficients):
        yield


@_fault(9, "hc_eps is added to the expansion weights", "only pre and comb have eps")
def _eps_in_post() -> Iterator[None]:
    reference = ops.coefficients._bound

    def coefficients(*args: Any) -> tuple[Tensor, Tensor, Tensor]:
        pre, post, comb = reference(*args)
        return pre, post + args[-1], comb

    with computed(ops.coefficients, coefficients):
        yield


@_fault(9, "Sinkhorn starts from sigmoids", "it starts from a softmax over the last axis")
def _sinkhorn_of_sigmoids() -> Iterator[None]:
    reference = hyper.sinkhorn

    def sinkhorn(logits_SS: Tensor, iterations: int, eps: float) -> Tensor:
        # The softmax of logarithms: sigmoids, each row normalised.
        return reference(torch.nn.functional.logsigmoid(logits_SS), iterations, eps)

    with swapped(hyper, "sinkhorn", sinkhorn):
        yield


@_fault(9, "Sinkhorn normalises the other axis first", "softmax over the last axis, then columns")
def _sinkhorn_of_other_axis() -> Iterator[None]:
    reference = hyper.sinkhorn

    def sinkhorn(logits_SS: Tensor, iterations: int, eps: float) -> Tensor:
        return reference(logits_SS.transpose(-1, -2), iterations, eps).transpose(-1, -2)

    with swapped(hyper, "sinkhorn", sinkhorn):
        yield
