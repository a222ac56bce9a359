"""Freshly drawn small models for the parity tests, and the oracle made from the same weights."""

from __future__ import annotations

import random
import warnings
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from dsv4.checkpoint import export_transformers
from dsv4.config import CSA, HCA, SWA, ModelConfig, YarnScaling
from dsv4.engram import EngramConfig
from dsv4.model.transformer import Transformer
from dsv4.model.weights import init_weights, set_weight
from dsv4.presets import preset

FLASH_LIKE = (SWA, SWA, CSA, HCA, CSA)
PRO_LIKE = (HCA, HCA, CSA, HCA)
SCHEDULES = {"flash": FLASH_LIKE, "pro": PRO_LIKE}

CPUINFO = Path("/proc/cpuinfo")
SAME_ORDER = CPUINFO.is_file() and "AuthenticAMD" in CPUINFO.read_text(encoding="utf-8")
"""Whether float32 products are summed in the order in which the recorded numbers were. Such a
processor is held to tight bounds; on others, ties of roundings and selections fall otherwise."""


def draw_config(seed: int, schedule: tuple[int, ...]) -> ModelConfig:
    """A random small architecture with the given layer schedule."""
    rng = random.Random(seed)
    heads = rng.choice((4, 8))
    experts = rng.choice((5, 8))
    head_dim = rng.choice((32, 48, 64))
    return replace(
        preset("tiny"),
        vocab_size=rng.choice((97, 160)),
        hidden_size=rng.choice((48, 64, 80)),
        moe_intermediate_size=rng.choice((24, 40)),
        num_hidden_layers=len(schedule),
        num_attention_heads=heads,
        head_dim=head_dim,
        qk_rope_head_dim=rng.choice((8, 16, 32)),
        q_lora_rank=rng.choice((24, 40)),
        o_groups=rng.choice((2, 4)),
        o_lora_rank=rng.choice((16, 24)),
        index_n_heads=16,
        index_head_dim=32,
        index_topk=rng.choice((5, 8, 13)),
        n_routed_experts=experts,
        num_experts_per_tok=rng.choice((2, 3)),
        routed_scaling_factor=rng.choice((1.5, 2.5)),
        compress_ratios=(*schedule, SWA),
        num_hash_layers=rng.choice((1, 2)),
        sliding_window=rng.choice((16, 128)),
        rope_theta=rng.choice((10000.0, 3000.0)),
        compress_rope_theta=rng.choice((160000.0, 40000.0)),
        rope_scaling=YarnScaling(
            factor=rng.choice((4.0, 16.0)),
            original_max_position_embeddings=rng.choice((512, 65536)),
        ),
    )


def with_engram(config: ModelConfig, seed: int, *, conv: bool = False) -> ModelConfig:
    """The same architecture with memories in the first layer and in one behind others."""
    rng = random.Random(seed)
    canonical = config.vocab_size - rng.randrange(1, 40)
    engram = EngramConfig(
        layer_ids=(0, 2) if conv else (1, config.num_hidden_layers - 1),
        max_ngram_size=rng.choice((2, 3, 4)),
        n_heads=rng.choice((1, 2, 3)),
        head_dim=rng.choice((8, 24, 40)),
        vocab_size=rng.choice((61, 500)),
        compressed_vocab_size=canonical,
        seed=seed,
        conv=conv,
    )
    return replace(config, engram=engram)


@torch.no_grad()
def draw_model(config: ModelConfig, seed: int) -> Transformer:
    """Random weights of a size at which every part matters (sinks, biases, mixing, gates)."""
    model = Transformer(config)
    init_weights(model, seed)
    rng = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=rng)
        leaf = name.rpartition(".")[2]
        if "norm" in name or leaf in ("q_weight", "k_weight"):
            parameter.copy_(1 + 0.2 * noise)
        elif leaf.endswith("_scale"):
            parameter.copy_(0.5 + 0.3 * noise)
        elif leaf.endswith("_base") or leaf in ("attn_sink", "ape", "bias"):
            parameter.copy_(0.5 * noise)
        else:
            parameter.copy_(noise * parameter.shape[-1] ** -0.5)
    if config.engram is not None:
        canonical = config.engram.compressed_vocab_size
        drawn = torch.randint(canonical, (config.vocab_size,), generator=rng)
        set_weight(model, "ngrams.token_map", drawn)
    return model.eval()


def oracle(model: Transformer, folder: Path) -> torch.nn.Module:
    """transformers' DeepseekV4ForCausalLM with the same weights, float32, eager attention."""
    export_transformers(model, folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformers import DeepseekV4ForCausalLM

        other = DeepseekV4ForCausalLM.from_pretrained(
            folder, attn_implementation="eager", dtype=torch.float32
        )
    return other.eval()


def tokens(config: ModelConfig, length: int, seed: int, batch: int = 1) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    return torch.randint(0, config.vocab_size, (batch, length), generator=rng)
