"""Known failures of V4 implementations, as changes of our reference.

Every one was seen in another code base (architecture notes, section 16, from which the numbers
are). Each is a context manager under which the model computes what an implementation with that
failure computes, op by op: that is how the kit proves that it would notice, and how it names what
it finds. The changes are global and meant for a process of its own; kernels ignore them.
"""

from __future__ import annotations

import contextlib
import inspect
import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from dsv4 import ops
from dsv4.config import CSA, ModelConfig
from dsv4.errors import UsageError
from dsv4.model import attention, compressor, indexer, moe, mtp, rope
from dsv4.numerics import formats
from dsv4.numerics.activation import fake_quant_fp8, fake_quant_int8
from dsv4.ops.reference import hyper
from dsv4.ops.reference import moe as experts

Change = Callable[[], AbstractContextManager[None]]


@dataclass(frozen=True, slots=True)
class Fault:
    """A known failure. `number`: in section 16 of the architecture notes. `hint`: what is right."""

    name: str
    number: int
    title: str
    hint: str
    change: Change

    @contextlib.contextmanager
    def planted(self) -> Iterator[None]:
        """Compute with this failure, op by op."""
        with ops.unfused(), self.change():
            yield


FAULTS: dict[str, Fault] = {}


def fault(name: str) -> Fault:
    """The fault called `name`; raises UsageError."""
    if name not in FAULTS:
        raise UsageError(f"no known failure is called {name!r}", f"one of {', '.join(FAULTS)}")
    return FAULTS[name]


def _fault(number: int, title: str, hint: str) -> Callable[[Callable[[], Iterator[None]]], Change]:
    """Enter a change into the list, under the name of its function."""

    def enter(function: Callable[[], Iterator[None]]) -> Change:
        change = contextlib.contextmanager(function)
        name = function.__name__.strip("_").replace("_", "-")
        FAULTS[name] = Fault(name, number, title, hint, change)
        return change

    return enter


@contextlib.contextmanager
def _swapped(owner: Any, name: str, value: Any) -> Iterator[None]:
    before = inspect.getattr_static(owner, name)  # a static method stays one
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


def _op(op: Any, value: Any) -> AbstractContextManager[None]:
    """Let `value` be computed instead of an op."""
    return _swapped(op, "_bound", value)


def _frequencies(make: Callable[[ModelConfig, int], Tensor]) -> AbstractContextManager[None]:
    return _swapped(
        attention, "frequencies", lambda config, ratio, device=rope.CPU: make(config, ratio)
    )


# Rotary positions.


@_fault(1, "one RoPE base on all layers", "layers that compress use compress_rope_theta and YaRN")
def _one_rope_base() -> Iterator[None]:
    with _frequencies(lambda config, ratio: rope.frequencies(config, 0)):
        yield


@_fault(1, "YaRN on window layers too", "layers with ratio 0 use rope_theta without YaRN")
def _yarn_everywhere() -> Iterator[None]:
    def make(config: ModelConfig, ratio: int) -> Tensor:
        if ratio:
            return rope.frequencies(config, ratio)
        return rope.frequencies(replace(config, compress_rope_theta=config.rope_theta), CSA)

    with _frequencies(make):
        yield


@_fault(1, "no YaRN", "layers that compress interpolate low frequencies at every length")
def _no_yarn() -> Iterator[None]:
    def make(config: ModelConfig, ratio: int) -> Tensor:
        base = config.compress_rope_theta if ratio else config.rope_theta
        return rope.frequencies(replace(config, rope_theta=base), 0)

    with _frequencies(make):
        yield


@_fault(2, "RoPE pairs the two halves", "channels 2j and 2j + 1 are a pair")
def _split_half_rope() -> Iterator[None]:
    def rotate(x: Tensor, cos: Tensor, sin: Tensor, *, inverse: bool = False) -> Tensor:
        width = 2 * cos.shape[-1]
        keep, (a, b) = x[..., :-width], x[..., -width:].float().chunk(2, -1)
        sin = -sin if inverse else sin
        turned = torch.cat((a * cos - b * sin, a * sin + b * cos), -1)
        return torch.cat((keep, turned.to(x.dtype)), -1)

    with _op(ops.rotate, rotate):
        yield


def _mscale() -> float:
    """YaRN's usual factor for V4's factor of 16."""
    return 0.1 * math.log(16) + 1


@_fault(3, "YaRN's mscale in the softmax scale", "the scale is head_dim ** -0.5, nothing else")
def _mscale_in_softmax() -> Iterator[None]:
    reference = ops.attend._bound

    def attend(q_BTHC: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        factor = _mscale() ** 2 if kwargs["ratio"] else 1.0
        return reference(q_BTHC * factor, *args, **kwargs)

    with _op(ops.attend, attend):
        yield


@_fault(3, "YaRN's mscale on cosines and sines", "rotations have length one")
def _mscale_in_rope() -> Iterator[None]:
    with _swapped(
        attention, "angles", lambda omega, at: tuple(_mscale() * x for x in rope.angles(omega, at))
    ):
        yield


@_fault(4, "the output is not rotated back", "turn the last channels of every head by -t")
def _no_derotation() -> Iterator[None]:
    reference = ops.rotate._bound

    def rotate(x: Tensor, cos: Tensor, sin: Tensor, *, inverse: bool = False) -> Tensor:
        return x if inverse else reference(x, cos, sin)

    with _op(ops.rotate, rotate):
        yield


@_fault(4, "the output is rotated back by another table", "by the table of its own layer")
def _derotation_by_other_table() -> Iterator[None]:
    reference, forward = ops.rotate._bound, attention.Attention.forward
    tables: list[tuple[Tensor, Tensor]] = []

    def rotate(x: Tensor, cos: Tensor, sin: Tensor, *, inverse: bool = False) -> Tensor:
        if inverse:
            cos, sin = (table[:, None] for table in tables[-1])
        return reference(x, cos, sin, inverse=inverse)

    def noted(self: attention.Attention, x_BTD: Tensor, start: int, *rest: Any) -> Tensor:
        other = rope.frequencies(self.config, 0 if self.ratio else CSA)
        tables.append(rope.angles(other, torch.arange(start, start + x_BTD.shape[1])))
        return forward(self, x_BTD, start, *rest)

    with _op(ops.rotate, rotate), _swapped(attention.Attention, "forward", noted):
        yield


def _entry_positions(
    positions: Callable[[Tensor, int], Tensor],
) -> AbstractContextManager[None]:
    """Rotate entries to other positions: `positions(first tokens of the blocks, ratio)`."""
    forward = compressor.Compressor.forward

    def changed(self: compressor.Compressor, *args: Any) -> Tensor:
        with _swapped(
            compressor, "angles", lambda omega, at: rope.angles(omega, positions(at, self.ratio))
        ):
            return forward(self, *args)

    return _swapped(compressor.Compressor, "forward", changed)


@_fault(5, "compressed entries are not rotated", "entry i is rotated to position m * i")
def _entries_not_rotated() -> Iterator[None]:
    with _entry_positions(lambda at, ratio: at * 0):
        yield


@_fault(5, "entries are rotated to their index", "entry i is rotated to position m * i")
def _entries_at_index() -> Iterator[None]:
    with _entry_positions(lambda at, ratio: at // ratio):
        yield


@_fault(5, "entries are rotated to their last token", "entry i is rotated to position m * i")
def _entries_at_last_token() -> Iterator[None]:
    with _entry_positions(lambda at, ratio: at + ratio - 1):
        yield


@_fault(6, "entries use the base of window layers", "one table per layer, for all it rotates")
def _entries_of_other_base() -> Iterator[None]:
    forward = compressor.Compressor.forward
    configs: list[ModelConfig] = []
    outer = attention.Attention.forward

    def noted(self: attention.Attention, *args: Any) -> Tensor:
        configs.append(self.config)
        return outer(self, *args)

    def changed(self: compressor.Compressor, x_BTX: Tensor, omega: Tensor, *args: Any) -> Tensor:
        return forward(self, x_BTX, rope.frequencies(configs[-1], 0), *args)

    with (
        _swapped(attention.Attention, "forward", noted),
        _swapped(compressor.Compressor, "forward", changed),
    ):
        yield


# Compressed entries and the indexer.


@_fault(7, "queries see entries of the future", "entry i is visible from token m * (i + 1) - 1 on")
def _no_causal_mask_on_entries() -> Iterator[None]:
    attend, select = ops.attend._bound, ops.select._bound

    def seeing_all(
        q_BTHC: Tensor, rows: Tensor, entries: Tensor | None, selected: Tensor | None,
        *args: Any, **kwargs: Any,
    ) -> Tensor:  # fmt: skip
        if entries is not None and selected is None:
            B, T = q_BTHC.shape[:2]
            selected = torch.arange(entries.shape[1]).expand(B, T, -1)
        return attend(q_BTHC, rows, entries, selected, *args, **kwargs)

    def choosing_all(q: Tensor, weights: Tensor, keys: Tensor, **kwargs: Any) -> Tensor:
        kwargs["start"] = keys.shape[1] * kwargs["ratio"]
        return select(q, weights, keys, **kwargs)

    with _op(ops.attend, seeing_all), _op(ops.select, choosing_all):
        yield


@_fault(7, "entries are visible one token late", "a block's last token sees its block")
def _entries_one_token_late() -> Iterator[None]:
    attend, select = ops.attend._bound, ops.select._bound

    def late(
        q_BTHC: Tensor, rows: Tensor, entries: Tensor | None, selected: Tensor | None,
        *args: Any, **kwargs: Any,
    ) -> Tensor:  # fmt: skip
        if entries is not None and selected is None:
            B, T = q_BTHC.shape[:2]
            at_T = torch.arange(kwargs["start"], kwargs["start"] + T)
            number_N = torch.arange(entries.shape[1])
            seen_TN = number_N < at_T[:, None] // kwargs["ratio"]
            selected = torch.where(seen_TN, number_N, -1).expand(B, -1, -1)
        return attend(q_BTHC, rows, entries, selected, *args, **kwargs)

    def choosing(q: Tensor, weights: Tensor, keys: Tensor, **kwargs: Any) -> Tensor:
        return select(q, weights, keys, **{**kwargs, "start": kwargs["start"] - 1})

    with _op(ops.attend, late), _op(ops.select, choosing):
        yield


@_fault(8, "entries pool four tokens instead of eight", "a CSA entry also pools the block before")
def _overlap_lost() -> Iterator[None]:
    def pool(values: Tensor, gates: Tensor, ape: Tensor, *, has_previous: bool) -> Tensor:
        D, m = ape.shape[1] // 2, ape.shape[0]
        first = m if has_previous else 0
        values, gates = (rows[:, first:, D:].contiguous() for rows in (values, gates))
        return ops.pool(values, gates, ape[:, D:])

    with _op(ops.pool_overlapping, pool):
        yield


@_fault(8, "the overlap is lost at chunk boundaries", "keep the rows of the last complete block")
def _overlap_lost_between_chunks() -> Iterator[None]:
    reference = ops.pool_overlapping._bound

    def pool(values: Tensor, gates: Tensor, ape: Tensor, *, has_previous: bool) -> Tensor:
        first = ape.shape[0] if has_previous else 0
        return reference(values[:, first:], gates[:, first:], ape, has_previous=False)

    with _op(ops.pool_overlapping, pool):
        yield


@_fault(14, "no ReLU in the indexer", "scores sum w_h * relu(q_h . k)")
def _indexer_without_relu() -> Iterator[None]:
    def select(
        q_BTHI: Tensor, weights_BTH: Tensor, keys_BNI: Tensor, *, start: int, ratio: int, k: int
    ) -> Tensor:
        dots = torch.einsum("bthi,bni->bthn", q_BTHI.float(), keys_BNI.float())
        scores = (dots * weights_BTH.float()[..., None]).sum(2)
        visible_T = (torch.arange(q_BTHI.shape[1]) + start + 1) // ratio
        hidden = torch.arange(keys_BNI.shape[1]) >= visible_T[:, None]
        order = scores.masked_fill(hidden, -torch.inf).sort(dim=-1, descending=True, stable=True)
        return order.indices[..., :k].masked_fill(order.values[..., :k] == -torch.inf, -1)

    with _op(ops.select, select):
        yield


@_fault(15, "no Hadamard rotation in front of FP4", "rotate index vectors before they are rounded")
def _indexer_without_hadamard() -> Iterator[None]:
    def rounded(x: Tensor, numerics: Any) -> Tensor:
        # Rounded unrotated, then rotated, as which the vectors are read back.
        return ops.hadamard(indexer.fake_quant_fp4(x)) if numerics.rounds_cache else x

    with _swapped(indexer.Indexer, "_round", staticmethod(rounded)):
        yield


@_fault(20, "compressor projections in FP8", "wkv and wgate of compressors are float32 products")
def _compressor_in_fp8() -> Iterator[None]:
    reference, forward = ops.linear_f32._bound, compressor.Compressor.forward

    def rounded(x: Tensor, weight: Tensor, numerics: Any) -> Tensor:
        x, weight = (fake_quant_fp8(value.float(), 128) for value in (x, weight))
        return reference(x, weight, numerics)

    def changed(self: compressor.Compressor, *args: Any) -> Tensor:
        with _op(ops.linear_f32, rounded):
            return forward(self, *args)

    with _swapped(compressor.Compressor, "forward", changed):
        yield


@_fault(
    21, "the cache is rounded to int8 blocks again", "store 448 channels in FP8, 64 in bfloat16"
)
def _cache_in_int8() -> Iterator[None]:
    reference = attention.Attention._round

    def rounded(self: attention.Attention, kv: Tensor, numerics: Any) -> Tensor:
        return fake_quant_int8(reference(self, kv, numerics).float()).to(kv.dtype)

    with _swapped(attention.Attention, "_round", rounded):
        yield


@_fault(16, "attention sinks are dropped", "the sink takes part in the softmax's sum")
def _no_sinks() -> Iterator[None]:
    reference = ops.attend._bound

    def attend(
        q: Tensor, rows: Tensor, entries: Tensor | None, selected: Tensor | None, sink_H: Tensor,
        **kwargs: Any,
    ) -> Tensor:  # fmt: skip
        return reference(q, rows, entries, selected, sink_H - torch.inf, **kwargs)

    with _op(ops.attend, attend):
        yield


# Hyper-connections.


@_fault(9, "the mixing matrix is not transposed", "X'_b sums comb[a, b] X_a over a")
def _comb_not_transposed() -> Iterator[None]:
    reference = ops.expand._bound

    def expand(y: Tensor, streams: Tensor, post: Tensor, comb: Tensor, numerics: Any) -> Tensor:
        return reference(y, streams, post, comb.transpose(-1, -2), numerics)

    with _op(ops.expand, expand):
        yield


@_fault(9, "expansion weights without their factor 2", "post = 2 * sigmoid(...)")
def _post_not_doubled() -> Iterator[None]:
    reference = ops.coefficients._bound

    def coefficients(*args: Any) -> tuple[Tensor, Tensor, Tensor]:
        pre, post, comb = reference(*args)
        return pre, post / 2, comb

    with _op(ops.coefficients, coefficients):
        yield


@_fault(9, "hc_eps is added to the expansion weights", "only pre and comb have eps")
def _eps_in_post() -> Iterator[None]:
    reference = ops.coefficients._bound

    def coefficients(*args: Any) -> tuple[Tensor, Tensor, Tensor]:
        pre, post, comb = reference(*args)
        return pre, post + args[-1], comb

    with _op(ops.coefficients, coefficients):
        yield


@_fault(9, "Sinkhorn starts from sigmoids", "it starts from a softmax over the last axis")
def _sinkhorn_of_sigmoids() -> Iterator[None]:
    reference = hyper.sinkhorn

    def sinkhorn(logits_SS: Tensor, iterations: int, eps: float) -> Tensor:
        # The softmax of logarithms: sigmoids, each row normalised.
        return reference(torch.nn.functional.logsigmoid(logits_SS), iterations, eps)

    with _swapped(hyper, "sinkhorn", sinkhorn):
        yield


@_fault(9, "Sinkhorn normalises the other axis first", "softmax over the last axis, then columns")
def _sinkhorn_of_other_axis() -> Iterator[None]:
    reference = hyper.sinkhorn

    def sinkhorn(logits_SS: Tensor, iterations: int, eps: float) -> Tensor:
        return reference(logits_SS.transpose(-1, -2), iterations, eps).transpose(-1, -2)

    with _swapped(hyper, "sinkhorn", sinkhorn):
        yield


# Experts.


@_fault(10, "no clamp in the shared expert", "all experts clamp at swiglu_limit")
def _shared_expert_not_clamped() -> Iterator[None]:
    reference = ops.swiglu._bound

    def swiglu(x: Tensor, w1: Any, w3: Any, w2: Any, limit: float, *rest: Any) -> Tensor:
        return reference(x, w1, w3, w2, math.inf, *rest)

    with _op(ops.swiglu, swiglu):  # routed experts go through ops.mixture
        yield


@_fault(10, "no clamp in routed experts", "all experts clamp at swiglu_limit")
def _routed_experts_not_clamped() -> Iterator[None]:
    reference = ops.mixture._bound

    def mixture(x: Tensor, experts: Tensor, weights: Tensor, matrices: Any, *rest: Any) -> Tensor:
        return reference(x, experts, weights, matrices, math.inf, *rest[1:])

    with _op(ops.mixture, mixture):
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
        _swapped(experts, "swiglu", swiglu),
        _op(ops.swiglu, swiglu),
        _op(ops.mixture, experts.mixture),
    ):
        yield


def _affinities(make: Callable[[Tensor], Tensor]) -> AbstractContextManager[None]:
    """Other affinities of the router's logits."""

    def affinities(x_ND: Tensor, gate_ED: Tensor, numerics: Any) -> Tensor:
        return make(ops.linear_f32(x_ND, gate_ED, numerics))

    return _op(ops.affinities, affinities)


@_fault(11, "softplus as log(1 + exp(x))", "softplus is linear above 20 and x + log1p below")
def _naive_softplus() -> Iterator[None]:
    with _affinities(lambda logits: (1 + logits.exp()).log().sqrt()):
        yield


@_fault(11, "the router computes in bfloat16", "logits, affinities and weights are float32")
def _router_in_bfloat16() -> Iterator[None]:
    reference = ops.affinities._bound

    def affinities(x_ND: Tensor, gate_ED: Tensor, numerics: Any) -> Tensor:
        return reference(x_ND, gate_ED, numerics).bfloat16().float()

    with _op(ops.affinities, affinities):
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

    with _op(ops.top_experts, choose), _op(ops.routing_weights, weights):
        yield


@_fault(18, "hash layers without token ids", "token ids travel with the activations")
def _hash_without_ids() -> Iterator[None]:
    forward = moe.Gate.forward

    def changed(self: moe.Gate, x_ND: Tensor, ids_N: Tensor, *rest: Any) -> moe.Routing:
        return forward(self, x_ND, torch.zeros_like(ids_N), *rest)

    with _swapped(moe.Gate, "forward", changed):
        yield


@_fault(18, "hash layers read the ids of another slice", "ids are split as the activations are")
def _hash_of_other_slice() -> Iterator[None]:
    forward = moe.Gate.forward

    def changed(self: moe.Gate, x_ND: Tensor, ids_N: Tensor, *rest: Any) -> moe.Routing:
        half = (len(ids_N) + 1) // 2  # two ranks, both with the ids of the first
        ids_N = torch.cat((ids_N[:half], ids_N[: len(ids_N) - half]))
        return forward(self, x_ND, ids_N, *rest)

    with _swapped(moe.Gate, "forward", changed):
        yield


# Formats, prediction.


@_fault(13, "E8M0 bytes read as numbers", "byte b is 2 ** (b - 127)")
def _scales_as_numbers() -> Iterator[None]:
    with _swapped(formats, "decode_e8m0", lambda codes: codes.view(torch.uint8).float()):
        yield


@_fault(13, "FP4 halves in the wrong order", "the low half of a byte is the even element")
def _fp4_halves_swapped() -> Iterator[None]:
    reference = formats.decode_packed_e2m1

    def decode(packed: Tensor) -> Tensor:
        return reference(packed).unflatten(-1, (-1, 2)).flip(-1).flatten(-2)

    with _swapped(formats, "decode_packed_e2m1", decode):
        yield


@_fault(19, "MTP reads the collapsed stream", "the MTP block reads all four streams")
def _mtp_of_collapsed_stream() -> Iterator[None]:
    predict = mtp.PredictionBlock.predict

    def changed(self: mtp.PredictionBlock, streams: Tensor, *rest: Any) -> Any:
        mean = streams.float().mean(2, keepdim=True).to(streams.dtype)
        return predict(self, mean.expand_as(streams), *rest)

    with _swapped(mtp.PredictionBlock, "predict", changed):
        yield
