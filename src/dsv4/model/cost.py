"""What a configuration costs: parameters, cache bytes and FLOPs, all from its sizes.

The formulas follow the tensors of the architecture (report section 2; counting rules: embedding
rows are looked up and not multiplied, the LM head is, hash tables are not parameters; of an
Engram's table only the rows that a token reads are active, and none is multiplied). DeepSeek-
V3.2 is described by its own sizes at the end, as the yardstick the report compares with.
"""

from __future__ import annotations

from dataclasses import dataclass

from dsv4.config import CSA, HCA, SWA, ModelConfig
from dsv4.engram import CONV_KERNEL

FP8_KV_BLOCK = 64
"""Channels of a cached entry that share one E8M0 scale."""
FP4_BLOCK = 32
"""Channels of an index key that share one E8M0 scale."""
TABLE_BLOCK = 32
"""Channels of a row of an Engram table that share one E8M0 scale."""


@dataclass(frozen=True, slots=True)
class Parameters:
    """Parameter counts by part. `experts` are the routed ones, of all layers; `tables` those of
    Engram, and `engram` the rest of it."""

    embedding: int
    head: int
    attention: int
    compressor: int
    indexer: int
    router: int
    experts: int
    shared_experts: int
    hyper: int
    norms: int
    mtp: int
    active_experts: int
    engram: int = 0
    tables: int = 0

    @property
    def main(self) -> int:
        """Everything but the MTP block."""
        return (
            self.embedding
            + self.head
            + self.attention
            + self.compressor
            + self.indexer
            + self.router
            + self.experts
            + self.shared_experts
            + self.hyper
            + self.norms
            + self.engram
            + self.tables
        )

    @property
    def total(self) -> int:
        return self.main + self.mtp

    @property
    def active(self) -> int:
        """Parameters that one token is multiplied with: chosen experts only, no table."""
        return self.main - self.embedding - self.tables - self.experts + self.active_experts


@dataclass(frozen=True, slots=True)
class Cache:
    """Bytes that a decoding state takes in the storage format of the official server.

    `per_token`: growth per token of context, averaged over blocks. `fixed`: window rings and
    unfinished blocks, whatever the length.
    """

    entry_bytes: int
    index_bytes: int
    per_token: float
    fixed: int

    def at(self, context: int) -> float:
        """Bytes that grow with the context, at `context` tokens."""
        return self.per_token * context


@dataclass(frozen=True, slots=True)
class Lookups:
    """What Engram reads for one token: rows of all tables, and their bytes as they are stored."""

    rows: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class Flops:
    """Floating point operations of one decoded token. `wide` is the part of `linear` whose
    weights are stored in BF16; `index_bits` is the width of the index dot products."""

    linear: float
    indexer: float
    attention: float
    wide: float
    index_bits: int

    @property
    def total(self) -> float:
        return self.linear + self.indexer + self.attention

    @property
    def fp8_equivalent(self) -> float:
        """Work in units of FP8 operations: 16-bit counts twice, FP4 by FP4 half.

        The weights are our reading of the report's "equivalent FP8" (its ratios come out)."""
        return self.linear + self.wide + self.indexer * self.index_bits / 8 + 2 * self.attention


def _attention(config: ModelConfig) -> int:
    d, c, h = config.hidden_size, config.head_dim, config.num_attention_heads
    rank, out = config.q_lora_rank, config.o_lora_rank
    query = d * rank + rank + rank * h * c
    value = d * c + c + h  # one latent per token, its norm, a sink per head
    return query + value + h * c * out + config.o_groups * out * d


def _compressor(ratio: int, d: int, channels: int) -> tuple[int, int]:
    """(matrix, other) parameters of one compressor; CSA has two overlapping series."""
    series = (2 if ratio == CSA else 1) * channels
    return 2 * series * d, ratio * series + channels


def _hyper_block(config: ModelConfig) -> tuple[int, int]:
    """(matrix, other) parameters of the two hyper-connections of a layer."""
    streams = config.hc_mult
    rows = streams * (2 + streams)
    return 2 * rows * streams * config.hidden_size, 2 * (rows + 3)


def _hyper_head(config: ModelConfig) -> int:
    return config.hc_mult * config.hc_mult * config.hidden_size + config.hc_mult + 1


def _expert(config: ModelConfig) -> int:
    return 3 * config.hidden_size * config.moe_intermediate_size


def parameters(config: ModelConfig) -> Parameters:
    """Count the parameters of `config` by part."""
    d, layers, ratios = config.hidden_size, config.num_hidden_layers, config.layer_ratios
    n_csa, n_hca = ratios.count(CSA), ratios.count(HCA)
    experts, expert, engram = config.n_routed_experts, _expert(config), config.engram
    learned = layers - config.num_hash_layers  # layers whose router has a bias
    query = config.index_n_heads * config.index_head_dim * config.q_lora_rank
    keys = sum(_compressor(CSA, d, config.index_head_dim))
    mtp = (
        _attention(config)
        + sum(_hyper_block(config))
        + _hyper_head(config)
        + experts * (d + 1)
        + expert * (experts + config.n_shared_experts)
        + 2 * d * d  # e_proj, h_proj
        + 5 * d  # attn, ffn, enorm, hnorm, norm
    )
    return Parameters(
        embedding=config.vocab_size * d,
        head=config.vocab_size * d,
        attention=layers * _attention(config),
        compressor=n_csa * sum(_compressor(CSA, d, config.head_dim))
        + n_hca * sum(_compressor(HCA, d, config.head_dim)),
        indexer=n_csa * (query + config.index_n_heads * d + keys),
        router=layers * experts * d + learned * experts,
        experts=layers * experts * expert,
        shared_experts=layers * config.n_shared_experts * expert,
        hyper=layers * sum(_hyper_block(config)) + _hyper_head(config),
        norms=layers * 2 * d + d,
        mtp=config.num_nextn_predict_layers * mtp,
        active_experts=layers * config.num_experts_per_tok * expert,
        engram=_engram(config),
        tables=sum(engram.rows) * engram.head_dim if engram is not None else 0,
    )


def _engram(config: ModelConfig) -> int:
    """Parameters of all Engrams besides their tables."""
    engram, d, streams = config.engram, config.hidden_size, config.hc_mult
    if engram is None:
        return 0
    gate = 2 * streams * d
    conv = streams * d * (1 + CONV_KERNEL) if engram.conv else 0
    return len(engram.layer_ids) * ((streams + 1) * d * engram.width + gate + conv)


def lookups(config: ModelConfig) -> Lookups:
    """Rows that a token reads, FP8 with a scale per 32 channels."""
    engram = config.engram
    if engram is None:
        return Lookups(0, 0)
    rows = len(engram.layer_ids) * engram.hashes
    return Lookups(rows, rows * (engram.head_dim + -(-engram.head_dim // TABLE_BLOCK)))


def cache(config: ModelConfig) -> Cache:
    """Bytes of cached keys and values: FP8 entries with BF16 RoPE channels, FP4 index keys."""
    c, r, ratios = config.head_dim, config.qk_rope_head_dim, config.layer_ratios
    quantised = c - r
    entry = quantised + -(-quantised // FP8_KV_BLOCK) + 2 * r
    index = config.index_head_dim // 2 + -(-config.index_head_dim // FP4_BLOCK)
    n_csa, n_hca = ratios.count(CSA), ratios.count(HCA)
    # Unfinished blocks hold values and gates in float32, CSA those of two blocks and series.
    csa_rows = 2 * CSA * 2 * (c + config.index_head_dim) * 2 * 4
    hca_rows = HCA * c * 2 * 4
    window = config.num_hidden_layers * config.sliding_window * entry
    return Cache(
        entry_bytes=entry,
        index_bytes=index,
        per_token=n_csa * (entry + index) / CSA + n_hca * entry / HCA,
        fixed=window + n_csa * csa_rows + n_hca * hca_rows,
    )


def flops(config: ModelConfig, context: int) -> Flops:
    """Operations to decode one token that has `context` tokens before it."""
    d, ratios = config.hidden_size, config.layer_ratios
    n_csa, n_hca, n_swa = ratios.count(CSA), ratios.count(HCA), ratios.count(SWA)
    per_key = 4 * config.num_attention_heads * config.head_dim  # scores and weighted sum
    window = min(config.sliding_window, context)
    selected = min(config.index_topk, context // CSA)
    keys = n_csa * (window + selected) + n_hca * (window + context // HCA) + n_swa * window
    matrices_csa = (
        _compressor(CSA, d, config.head_dim)[0]
        + _compressor(CSA, d, config.index_head_dim)[0]
        + config.index_n_heads * d
    )
    wide = (
        config.vocab_size * d
        + n_csa * matrices_csa
        + n_hca * _compressor(HCA, d, config.head_dim)[0]
        + config.num_hidden_layers * config.n_routed_experts * d
    )
    return Flops(
        linear=2.0 * parameters(config).active,
        indexer=2.0 * n_csa * config.index_n_heads * config.index_head_dim * (context // CSA),
        attention=float(per_key * keys),
        wide=2.0 * wide,
        index_bits=4,
    )


@dataclass(frozen=True, slots=True)
class V32:
    """The sizes of DeepSeek-V3.2 (multi-head latent attention with a sparse selection)."""

    layers: int = 61
    dense_layers: int = 3
    hidden: int = 7168
    heads: int = 128
    q_rank: int = 1536
    kv_rank: int = 512
    nope_dim: int = 128
    rope_dim: int = 64
    value_dim: int = 128
    index_heads: int = 64
    index_dim: int = 128
    index_topk: int = 2048
    experts_active: int = 8
    shared_experts: int = 1
    experts: int = 256
    expert_width: int = 2048
    dense_width: int = 18432
    vocabulary: int = 129280
    scale_block: int = 128

    @property
    def bytes_per_token(self) -> int:
        """FP8 latent with F32 block scales, BF16 RoPE key; FP8 index key with one F32 scale."""
        latent = self.kv_rank + 4 * (self.kv_rank // self.scale_block) + 2 * self.rope_dim
        return self.layers * (latent + self.index_dim + 4)

    @property
    def active(self) -> int:
        """Matrix parameters that one token meets, LM head included."""
        d = self.hidden
        query = d * self.q_rank + self.q_rank * self.heads * (self.nope_dim + self.rope_dim)
        latent = d * (self.kv_rank + self.rope_dim)
        values = self.kv_rank * self.heads * (self.nope_dim + self.value_dim)
        attention = query + latent + values + self.heads * self.value_dim * d
        indexer = self.q_rank * self.index_heads * self.index_dim
        indexer += d * (self.index_dim + self.index_heads)
        chosen = self.experts_active + self.shared_experts
        moe = chosen * 3 * d * self.expert_width + self.experts * d
        dense = 3 * d * self.dense_width
        return (
            self.layers * (attention + indexer)
            + (self.layers - self.dense_layers) * moe
            + self.dense_layers * dense
            + self.vocabulary * d
        )

    def flops(self, context: int) -> Flops:
        """Operations to decode one token that has `context` tokens before it."""
        per_key = 2 * self.heads * (2 * self.kv_rank + self.rope_dim)
        index = 2 * self.index_heads * self.index_dim
        wide = self.vocabulary + (self.layers - self.dense_layers) * self.experts
        wide += self.layers * self.index_heads
        return Flops(
            linear=2.0 * self.active,
            indexer=float(self.layers * index * context),
            attention=float(self.layers * per_key * min(self.index_topk, context)),
            wide=2.0 * wide * self.hidden,
            index_bits=8,
        )
