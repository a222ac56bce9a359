"""The arms of the experiments: what is built or trained otherwise than in `base`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from dsv4.config import CSA, HCA, SWA, ModelConfig
from dsv4.engram import EngramConfig
from dsv4.model.transformer import Transformer
from dsv4.training.optimizer import OptimizerSettings

VOCABULARY = 2048
MAX_LENGTH = 512
"""Longest row of a batch, in tokens."""

BASE = ModelConfig(
    vocab_size=VOCABULARY,
    hidden_size=128,
    moe_intermediate_size=64,
    num_hidden_layers=4,
    num_attention_heads=4,
    head_dim=64,
    qk_rope_head_dim=32,
    q_lora_rank=64,
    o_groups=2,
    o_lora_rank=64,
    index_n_heads=4,
    index_head_dim=64,
    index_topk=32,
    n_routed_experts=8,
    num_experts_per_tok=2,
    routed_scaling_factor=1.5,
    compress_ratios=(SWA, CSA, HCA, CSA, SWA),
    num_hash_layers=2,
    sliding_window=32,
    max_position_embeddings=4096,
    # V4 has 20. A third of the kernels of a step would be these tiny divisions. How far from doubly
    # stochastic four leave the mixing matrices was not measured.
    hc_sinkhorn_iters=4,
)
MEMORY = EngramConfig((1,), 3, 2, 32, 2048, VOCABULARY)


@dataclass(frozen=True)
class Arm:
    """One way to build or train the model. partner: the arm it is compared with."""

    what: str
    model: ModelConfig
    partner: str = "base"
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    mtp: float = 0.3
    lr: float = 4e-3
    prepare: Callable[[Transformer], None] | None = None


def plain_residual(model: Transformer) -> None:
    """One stream, read as it is and added to with weight 1: freeze the connections there."""
    for name, parameter in model.named_parameters():
        if ".hc_" in name or name.startswith("hc_"):
            parameter.data.zero_()
            parameter.requires_grad_(False)


ADAMW = OptimizerSettings(matrices="adamw")

ARMS = {
    "base": Arm("CSA and HCA, mHC, Muon (rate 4e-3), two hash layers, MTP, no Engram", BASE),
    "full-attention": Arm(
        "every layer attends to all earlier tokens",
        replace(BASE, compress_ratios=(SWA,) * 5, sliding_window=MAX_LENGTH),
    ),
    "residual": Arm(
        "a plain residual stream instead of mHC", replace(BASE, hc_mult=1), prepare=plain_residual
    ),
    "muon-2e-3": Arm("Muon at half the rate", BASE, lr=2e-3),
    "muon-8e-3": Arm("Muon at twice the rate", BASE, lr=8e-3),
    "adamw-1e-3": Arm("AdamW for all matrices, rate 1e-3", BASE, optimizer=ADAMW, lr=1e-3),
    "adamw": Arm("the same, rate 2e-3", BASE, optimizer=ADAMW, lr=2e-3),
    "adamw-4e-3": Arm("the same, rate 4e-3", BASE, optimizer=ADAMW, lr=4e-3),
    "adamw-8e-3": Arm("the same, rate 8e-3", BASE, optimizer=ADAMW, lr=8e-3),
    "learned-routing": Arm("learned routing in all layers", replace(BASE, num_hash_layers=0)),
    "no-mtp": Arm("no MTP loss", BASE, mtp=0.0),
    "engram": Arm("Engram in layer 1", replace(BASE, engram=MEMORY)),
    "more-experts": Arm(
        "as many parameters as `engram`, in 11 experts instead of 8",
        replace(BASE, n_routed_experts=11),
        partner="engram",
    ),
    "engram-one-row": Arm(
        "Engram whose table has one row per hash",
        replace(BASE, engram=replace(MEMORY, vocab_size=1)),
        partner="engram",
    ),
}
