"""The configurations that have a name."""

from __future__ import annotations

from dataclasses import replace

from dsv4.config import CSA, HCA, SWA, ModelConfig
from dsv4.engram import EngramConfig
from dsv4.errors import ConfigError


def _flash() -> ModelConfig:
    return ModelConfig(
        vocab_size=129280,
        hidden_size=4096,
        moe_intermediate_size=2048,
        num_hidden_layers=43,
        num_attention_heads=64,
        head_dim=512,
        qk_rope_head_dim=64,
        q_lora_rank=1024,
        o_groups=8,
        o_lora_rank=1024,
        index_n_heads=64,
        index_head_dim=128,
        index_topk=512,
        n_routed_experts=256,
        num_experts_per_tok=6,
        routed_scaling_factor=1.5,
        compress_ratios=(SWA, SWA, *(CSA if i % 2 == 0 else HCA for i in range(2, 43)), SWA),
    )


def _pro() -> ModelConfig:
    return replace(
        _flash(),
        hidden_size=7168,
        moe_intermediate_size=3072,
        num_hidden_layers=61,
        num_attention_heads=128,
        q_lora_rank=1536,
        o_groups=16,
        index_topk=1024,
        n_routed_experts=384,
        routed_scaling_factor=2.5,
        compress_ratios=(HCA, HCA, *(CSA if i % 2 == 0 else HCA for i in range(2, 61)), SWA),
    )


def _tiny() -> ModelConfig:
    """Every part of the architecture at the smallest useful size, for tests."""
    return ModelConfig(
        vocab_size=512,
        hidden_size=256,
        moe_intermediate_size=128,
        num_hidden_layers=5,
        num_attention_heads=4,
        head_dim=128,
        qk_rope_head_dim=64,
        q_lora_rank=128,
        o_groups=2,
        o_lora_rank=128,
        index_n_heads=16,
        index_head_dim=128,
        index_topk=8,
        n_routed_experts=8,
        num_experts_per_tok=3,
        routed_scaling_factor=1.5,
        compress_ratios=(SWA, SWA, CSA, HCA, CSA, SWA),
        num_hash_layers=2,
        sliding_window=32,
    )


def _nano() -> ModelConfig:
    """The bundled model's: every part of V4 and an Engram in 30 MB.

    The window is four times V4's, so that the definitions of a few tools lie within it: with
    V4's, values from further back were hardly ever copied (benchmarks/copying.py).
    Training fits `compressed_vocab_size` to the tokenizer.
    """
    return ModelConfig(
        vocab_size=8192,
        hidden_size=256,
        moe_intermediate_size=128,
        num_hidden_layers=8,
        num_attention_heads=4,
        head_dim=128,
        qk_rope_head_dim=64,
        q_lora_rank=128,
        o_groups=2,
        o_lora_rank=128,
        index_n_heads=8,
        index_head_dim=64,
        index_topk=128,
        n_routed_experts=16,
        num_experts_per_tok=4,
        routed_scaling_factor=1.5,
        compress_ratios=(SWA, SWA, *(CSA, HCA) * 3, SWA),
        num_hash_layers=3,
        sliding_window=512,
        engram=EngramConfig((1,), 3, 4, 32, 16384, 8192),
        max_position_embeddings=1048576,
    )


def _bench() -> ModelConfig:
    """For measurements: 1.46 B parameters, Flash's layer pattern at a quarter of its width."""
    return replace(
        _flash(),
        vocab_size=32768,
        hidden_size=1024,
        moe_intermediate_size=512,
        num_hidden_layers=12,
        num_attention_heads=16,
        q_lora_rank=512,
        o_groups=4,
        o_lora_rank=512,
        index_n_heads=16,
        n_routed_experts=64,
        compress_ratios=(SWA, SWA, *(CSA, HCA) * 5, SWA),
    )


def preset(name: str) -> ModelConfig:
    """The configuration called `name`; raises ConfigError listing the names there are."""
    if name in ("flash-base", "pro-base"):
        instruct = preset(name.removesuffix("-base"))
        return replace(instruct, expert_dtype="fp8", scale_dtype="f32")
    makers = {"flash": _flash, "pro": _pro, "bench": _bench, "nano": _nano, "tiny": _tiny}
    if name not in makers:
        raise ConfigError(f"there is no preset {name!r}", f"there are {', '.join(PRESETS)}")
    return makers[name]()


PRESETS = ("flash", "flash-base", "pro", "pro-base", "bench", "nano", "tiny")
