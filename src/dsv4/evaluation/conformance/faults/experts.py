"""Known failures in routers and experts."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from dsv4 import ops
from dsv4.evaluation.conformance.faults.fault import Fault, computed, into, swapped
from dsv4.model import moe
from dsv4.numerics.activation import fake_quant_fp8
from dsv4.ops.reference import moe as experts

FAULTS: dict[str, Fault] = {}
_fault = into(FAULTS)


@_fault(10, "no clamp in the shared expert", "all experts clamp at swiglu_limit")
def _shared_expert_not_clamped() -> Iterator[None]:
    reference = ops.swiglu._bound

    def swiglu(x: Tensor, w1: Any, w3: Any, w2: Any, limit: float, *rest: Any) -> Tensor:
        return reference(x, w1, w3, w2, math.inf, *rest)

    with computed(ops.swiglu, swiglu):  # routed experts go through ops.mixture
        yield


@_fault(10, "no clamp in routed experts", "all experts clamp at swiglu_limit")
def _routed_experts_not_clamped() -> Iterator[None]:
    reference = ops.mixture._bound

    def mixture(x: Tensor, experts: Tensor, weights: Tensor, matrices: Any, *rest: Any) -> Tensor:
        return reference(x, experts, weights, matrices, math.inf, *rest[1:])

    with computed(ops.mixture, mixture):
        yield


@_fault(10, "the clamp comes after the quantisation", "clamp gate and up, multiply, then quantise")
def _clamp_after_quantisation() -> Iterator[None]:
    def swiglu(
        x_ND: Tensor, w1: Any, w3: Any, w2: Any, limit: float, numerics: Any,
        weight_N: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        gate, up = (ops.linear(x_ND, weight, numerics).float() for weight in (w1, w3))
        hidden = torch.nn.functional.silu(gate) * up
        if numerics.quantized:
            hidden = fake_quant_fp8(hidden, 128)
        hidden = hidden.clamp(-limit, limit)  # what is left to bound is the product
        if weight_N is not None:
            hidden = weight_N[:, None] * hidden
        return ops.linear(hidden.to(numerics.dtype), w2, numerics)

    with (
        swapped(experts, "swiglu", swiglu),
        computed(ops.swiglu, swiglu),
        computed(ops.mixture, experts.mixture),
    ):
        yield


def _affinities(make: Callable[[Tensor], Tensor]) -> AbstractContextManager[None]:
    """Other affinities of the router's logits."""

    def affinities(x_ND: Tensor, gate_ED: Tensor, numerics: Any) -> Tensor:
        return make(ops.linear_f32(x_ND, gate_ED, numerics))

    return computed(ops.affinities, affinities)


@_fault(11, "softplus as log(1 + exp(x))", "softplus is linear above 20 and x + log1p below")
def _naive_softplus() -> Iterator[None]:
    with _affinities(lambda logits: (1 + logits.exp()).log().sqrt()):
        yield


@_fault(11, "the router computes in bfloat16", "logits, affinities and weights are float32")
def _router_in_bfloat16() -> Iterator[None]:
    reference = ops.affinities._bound

    def affinities(x_ND: Tensor, gate_ED: Tensor, numerics: Any) -> Tensor:
        return reference(x_ND, gate_ED, numerics).bfloat16().float()

    with computed(ops.affinities, affinities):
        yield


@_fault(12, "affinities are sigmoids", "V4 uses sqrt(softplus(x)); sigmoid is V3's")
def _sigmoid_scores() -> Iterator[None]:
    with _affinities(torch.sigmoid):
        yield


@_fault(12, "routing weights include the bias", "the bias chooses experts, it does not weigh them")
def _biased_weights() -> Iterator[None]:
    top, weigh = ops.top_experts._bound, ops.routing_weights._bound
    biases: list[Tensor] = []

    def choose(scores: Tensor, bias: Tensor, k: int) -> Tensor:
        biases.append(bias)
        return top(scores, bias, k)

    def weights(scores: Tensor, experts: Tensor, scale: float) -> Tensor:
        return weigh(scores + biases.pop() if biases else scores, experts, scale)

    with computed(ops.top_experts, choose), computed(ops.routing_weights, weights):
        yield


@_fault(18, "hash layers without token ids", "token ids travel with the activations")
def _hash_without_ids() -> Iterator[None]:
    forward = moe.Gate.forward

    def changed(self: moe.Gate, x_ND: Tensor, ids_N: Tensor, *rest: Any) -> moe.Routing:
        return forward(self, x_ND, torch.zeros_like(ids_N), *rest)

    with swapped(moe.Gate, "forward", changed):
        yield


@_fault(18, "hash layers read the ids of another slice", "ids are split as the activations are")
def _hash_of_other_slice() -> Iterator[None]:
    forward = moe.Gate.forward

    def changed(self: moe.Gate, x_ND: Tensor, ids_N: Tensor, *rest: Any) -> moe.Routing:
        half = (len(ids_N) + 1) // 2  # two ranks, both with the ids of the first
        ids_N = torch.cat((ids_N[:half], ids_N[: len(ids_N) - half]))
        return forward(self, x_ND, ids_N, *rest)

    with swapped(moe.Gate, "forward", changed):
        yield
