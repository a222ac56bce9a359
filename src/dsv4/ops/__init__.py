"""The one door to compute: every op the model uses, by its public name.

`ops.reference` holds the meaning of each op in plain torch; `ops.binding` says which
implementation runs.
"""

from dsv4.ops import cpu
from dsv4.ops.binding import Binding, Op, bindings, use
from dsv4.ops.fused import fused, unfused
from dsv4.ops.reference import attention, compressor, engram, hyper, loss, moe, primitives

linear = Op(primitives.linear)
linear_f32 = Op(primitives.linear_f32)
rms_norm = Op(primitives.rms_norm)
grouped_linear = Op(primitives.grouped_linear)
head_norm = Op(primitives.head_norm)
rotate = Op(primitives.rotate)
hadamard = Op(primitives.hadamard)
attend = Op(attention.attend)
select = Op(attention.select)
pool = Op(compressor.pool)
pool_overlapping = Op(compressor.pool_overlapping)
mixing_logits = Op(hyper.mixing_logits)
coefficients = Op(hyper.coefficients)
collapse = Op(hyper.collapse)
expand = Op(hyper.expand)
affinities = Op(moe.affinities)
top_experts = Op(moe.top_experts)
routing_weights = Op(moe.routing_weights)
swiglu = Op(moe.swiglu)
mixture = Op(moe.mixture)
ngram_rows = Op(engram.ngram_rows)
engram_gate = Op(engram.engram_gate)
engram_conv = Op(engram.engram_conv)
head_loss = Op(loss.head_loss)

cpu.register()

__all__ = [
    "Binding",
    "Op",
    "affinities",
    "attend",
    "bindings",
    "coefficients",
    "collapse",
    "engram_conv",
    "engram_gate",
    "expand",
    "fused",
    "grouped_linear",
    "hadamard",
    "head_loss",
    "head_norm",
    "linear",
    "linear_f32",
    "mixing_logits",
    "mixture",
    "ngram_rows",
    "pool",
    "pool_overlapping",
    "rms_norm",
    "rotate",
    "routing_weights",
    "select",
    "swiglu",
    "top_experts",
    "unfused",
    "use",
]
