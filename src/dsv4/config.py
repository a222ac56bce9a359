"""What a DeepSeek-V4 model is made of, as one frozen dataclass.

Field names are those of the released `config.json`. Two file dialects are read: the released
one and the one transformers writes (`layer_types`, `rope_parameters`, ...). Both are checked
key by key: a key nobody knows, a value out of range or two keys that contradict each other
give a one-line `ConfigError` naming the key, its value and what is allowed.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeGuard

from dsv4 import engram as engrams
from dsv4.engram import EngramConfig
from dsv4.errors import ConfigError

SWA, CSA, HCA = 0, 4, 128
"""Compression ratios: sliding window only, compressed sparse, heavily compressed attention."""

MAX_CONFIG_BYTES = 1 << 20

LAYER_TYPES = {
    "sliding_attention": SWA,
    "compressed_sparse_attention": CSA,
    "heavily_compressed_attention": HCA,
}


@dataclass(frozen=True, slots=True)
class YarnScaling:
    """YaRN parameters of the layers that compress (report 2.3; mscale is never applied)."""

    factor: float = 16.0
    original_max_position_embeddings: int = 65536
    beta_fast: float = 32.0
    beta_slow: float = 1.0


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """A DeepSeek-V4 architecture. All sizes are element counts.

    `compress_ratios` has one entry per layer (0, 4 or 128), then one per MTP block (always 0).
    `expert_dtype` is the storage format of the routed experts: "fp4" for the instruct
    checkpoints, "fp8" for -Base, None when the file does not say (then the tensors decide).
    `scale_dtype` is how block scales are stored: "e8m0", or "f32" in -Base checkpoints, whose
    config.json says ue8m0 all the same, so a loader sets it from the tensors.
    `engram`: the memory that some layers have (`engram_*` in the file); None is V4 as released.
    """

    vocab_size: int
    hidden_size: int
    moe_intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    head_dim: int
    qk_rope_head_dim: int
    q_lora_rank: int
    o_groups: int
    o_lora_rank: int
    index_n_heads: int
    index_head_dim: int
    index_topk: int
    n_routed_experts: int
    num_experts_per_tok: int
    routed_scaling_factor: float
    compress_ratios: tuple[int, ...]
    num_hash_layers: int = 3
    num_nextn_predict_layers: int = 1
    sliding_window: int = 128
    n_shared_experts: int = 1
    swiglu_limit: float = 10.0
    hc_mult: int = 4
    hc_sinkhorn_iters: int = 20
    hc_eps: float = 1e-6
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10000.0
    compress_rope_theta: float = 160000.0
    rope_scaling: YarnScaling = field(default_factory=YarnScaling)
    max_position_embeddings: int = 1048576
    initializer_range: float = 0.02
    bos_token_id: int = 0
    eos_token_id: int = 1
    expert_dtype: Literal["fp4", "fp8"] | None = "fp4"
    scale_dtype: Literal["e8m0", "f32"] = "e8m0"
    draft_stages: int = 0
    engram: EngramConfig | None = None

    def __post_init__(self) -> None:
        _check(self)

    @property
    def layer_ratios(self) -> tuple[int, ...]:
        """Compression ratio of each layer of the main model (MTP entries left out)."""
        return self.compress_ratios[: self.num_hidden_layers]

    def is_hash_layer(self, layer: int) -> bool:
        """Whether `layer` routes by token id (report 2.1) rather than by learned top-k."""
        return layer < self.num_hash_layers

    def to_released(self) -> dict[str, Any]:
        """The configuration as the released `config.json` spells it."""
        values = dataclasses.asdict(self)
        values["rope_scaling"] = {"type": "yarn", **values["rope_scaling"]}
        # Draft stages are not loaded, so they are not written; but prompts differ with them.
        if stages := values.pop("draft_stages"):
            values["dspark_draft_stages"] = stages
        del values["engram"]
        if self.engram is not None:
            values |= self.engram.to_json()
        values["compress_ratios"] = list(self.compress_ratios)
        del values["scale_dtype"]  # the released files leave it to the tensors
        if self.expert_dtype is None:
            del values["expert_dtype"]
        return {
            "architectures": ["DeepseekV4ForCausalLM"],
            "model_type": "deepseek_v4",
            **_FIXED,
            **values,
            "torch_dtype": "bfloat16",
            "quantization_config": {
                "quant_method": "fp8",
                "fmt": "e4m3",
                "activation_scheme": "dynamic",
                "scale_fmt": "ue8m0",
                "weight_block_size": [128, 128],
            },
        }

    def to_transformers(self) -> dict[str, Any]:
        """The configuration as transformers' `DeepseekV4Config` spells it (dequantised).

        Raises ConfigError for a model with Engram, which transformers does not have.
        """
        if self.engram is not None:
            raise ConfigError("transformers' DeepSeek-V4 has no Engram", "use the released layout")
        values = self.to_released()
        del values["quantization_config"], values["rope_scaling"], values["compress_ratios"]
        values.pop("expert_dtype", None)
        names = {ratio: name for name, ratio in LAYER_TYPES.items()}
        partial = self.qk_rope_head_dim / self.head_dim
        yarn = dataclasses.asdict(self.rope_scaling)
        values.pop("num_hash_layers")
        values.pop("qk_rope_head_dim")
        return values | {
            "torch_dtype": "float32",
            "layer_types": [names[ratio] for ratio in self.layer_ratios],
            "compress_rates": {name: ratio for name, ratio in LAYER_TYPES.items() if ratio},
            "mlp_layer_types": [
                "hash_moe" if self.is_hash_layer(i) else "moe"
                for i in range(self.num_hidden_layers)
            ],
            "partial_rotary_factor": partial,
            "rope_parameters": {
                "main": {
                    "rope_type": "default",
                    "rope_theta": self.rope_theta,
                    "partial_rotary_factor": partial,
                },
                "compress": {
                    "rope_type": "yarn",
                    "rope_theta": self.compress_rope_theta,
                    "partial_rotary_factor": partial,
                    "attention_factor": 1.0,
                    **yarn,
                },
            },
        }


# Keys whose value is part of the architecture and has exactly one legal value.
_FIXED: dict[str, Any] = {
    "attention_bias": False,
    "attention_dropout": 0.0,
    "hidden_act": "silu",
    "norm_topk_prob": True,
    "num_key_value_heads": 1,
    "scoring_func": "sqrtsoftplus",
    "tie_word_embeddings": False,
    "topk_method": "noaux_tc",
}
_FIXED_EXTRA = {"mlp_bias": False, "rope_interleave": True}

# Keys that say nothing about the architecture, so any value is accepted.
_IGNORED = frozenset(
    """architectures model_type torch_dtype dtype use_cache transformers_version pad_token_id
    output_router_logits router_aux_loss_coef router_jitter_noise _name_or_path auto_map
    output_attentions output_hidden_states return_dict chunk_size_feed_forward id2label label2id
    is_encoder_decoder problem_type ep_size pretraining_tp""".split()
)

_TRANSFORMERS = frozenset(
    """layer_types mlp_layer_types compress_rates compress_rate_csa compress_rate_hca
    rope_parameters partial_rotary_factor num_local_experts intermediate_size""".split()
)

_MAY_BE_ZERO = {
    "num_hash_layers",
    "num_nextn_predict_layers",
    "bos_token_id",
    "eos_token_id",
    "draft_stages",
}

# What is looped over has bounds that no sensible model reaches and no machine chokes on.
_LARGEST = {
    "num_hidden_layers": 1024,
    "n_routed_experts": 1 << 16,
    "hc_mult": 64,
    "hc_sinkhorn_iters": 1000,
    "draft_stages": 64,
}

_EXACT_IDS = 1 << 24
"""Integers up to here are float32 numbers."""

_FIELDS = {f.name: f for f in dataclasses.fields(ModelConfig)}


def _fail(key: str, value: object, allowed: str, hint: str | None = None) -> ConfigError:
    shown = repr(value)
    if len(shown) > 80:
        shown = f"{shown[:77]}..."
    key = key if key.isprintable() else ascii(key)
    return ConfigError(f"config: {key} = {shown} is not valid; allowed: {allowed}", hint)


def _is_number(value: object) -> TypeGuard[int | float]:
    """A finite real number; not a bool, nor an integer too large for a float."""
    return isinstance(value, int | float) and not isinstance(value, bool) and -1e300 < value < 1e300


def _check_value(name: str, value: object) -> None:
    """Raise ConfigError unless `value` is of the kind and in the range of the field `name`."""
    kind = _FIELDS[name].type
    if kind == "int":
        low = 0 if name in _MAY_BE_ZERO else 1
        high = _LARGEST.get(name, (1 << 31) - 1)
        if type(value) is not int or not low <= value <= high:
            raise _fail(name, value, f"an integer from {low} to {high}")
    elif kind == "float":
        if not _is_number(value) or value <= 0:
            raise _fail(name, value, "a positive finite number")
        if name.endswith("rope_theta") and value <= 1:
            raise _fail(name, value, "a number above 1")


def _check(config: ModelConfig) -> None:
    """Raise ConfigError unless every field is in range and the fields fit together."""
    for name, value in dataclasses.asdict(config).items():
        _check_value(name, value)
    layers, blocks = config.num_hidden_layers, config.num_nextn_predict_layers
    if blocks > 1:
        raise _fail("num_nextn_predict_layers", blocks, "0 or 1")
    ratios = config.compress_ratios
    for ratio in ratios:
        if ratio not in (SWA, CSA, HCA):
            raise _fail("compress_ratios", list(ratios), "0, 4 or 128 for each layer")
    expected = layers + max(blocks, config.draft_stages)
    if len(ratios) != expected:
        raise _fail(
            "compress_ratios",
            list(ratios),
            f"{expected} entries (num_hidden_layers {layers} + prediction blocks)",
        )
    if any(ratios[layers:]):
        raise _fail("compress_ratios", list(ratios), "0 for the entries of the MTP blocks")
    if config.n_shared_experts != 1:
        raise _fail("n_shared_experts", config.n_shared_experts, "1")
    if config.num_hash_layers > layers:
        raise _fail("num_hash_layers", config.num_hash_layers, f"0 to {layers} (the layers)")
    if config.num_experts_per_tok > config.n_routed_experts:
        allowed = f"1 to {config.n_routed_experts} (n_routed_experts)"
        raise _fail("num_experts_per_tok", config.num_experts_per_tok, allowed)
    if config.num_attention_heads % config.o_groups:
        allowed = f"a divisor of num_attention_heads {config.num_attention_heads}"
        raise _fail("o_groups", config.o_groups, allowed)
    rope = config.qk_rope_head_dim
    if rope % 2 or rope > min(config.head_dim, config.index_head_dim):
        allowed = "an even number, at most head_dim and index_head_dim"
        raise _fail("qk_rope_head_dim", rope, allowed)
    if config.index_head_dim & (config.index_head_dim - 1):
        allowed = "a power of two (it is Hadamard-rotated)"
        raise _fail("index_head_dim", config.index_head_dim, allowed)
    if config.engram is not None:
        _check_engram(config, config.engram)
    for name in ("bos_token_id", "eos_token_id"):
        if getattr(config, name) >= config.vocab_size:
            raise _fail(name, getattr(config, name), f"below vocab_size {config.vocab_size}")
    if config.expert_dtype not in ("fp4", "fp8", None):
        raise _fail("expert_dtype", config.expert_dtype, "'fp4' or 'fp8'")


def _check_engram(config: ModelConfig, engram: EngramConfig) -> None:
    last, vocabulary = config.num_hidden_layers - 1, config.vocab_size
    if engram.layer_ids[-1] > last:
        raise _fail("engram_layer_ids", list(engram.layer_ids), f"layers up to {last}")
    for name in ("pad_id", "compressed_vocab_size"):
        value, most = getattr(engram, name), vocabulary - (name == "pad_id")
        if value > most:
            raise _fail(f"engram_{name}", value, f"at most {most} (vocab_size {vocabulary})")
    if vocabulary > _EXACT_IDS:
        allowed = f"at most {_EXACT_IDS} with an Engram, whose state keeps ids as float32"
        raise _fail("vocab_size", vocabulary, allowed)


def from_dict(values: Mapping[str, Any]) -> ModelConfig:
    """A ModelConfig from a parsed `config.json` of either dialect.

    Raises ConfigError for an unknown key, a value of the wrong kind, a missing key or a
    contradiction between two keys.
    """
    if values.get("model_type", "deepseek_v4") != "deepseek_v4":
        raise _fail(
            "model_type",
            values["model_type"],
            "'deepseek_v4'",
            "V4.1 and older DeepSeek models have another architecture",
        )
    known = set(_FIELDS) | set(_FIXED) | set(_FIXED_EXTRA) | _IGNORED | _TRANSFORMERS
    known |= {"quantization_config", "rope_parameters"}
    result: dict[str, Any] = {}
    for key, value in values.items():
        if key in _IGNORED or key.startswith(("dspark_", engrams.PREFIX)):
            continue
        if key not in known or key in ("draft_stages", "scale_dtype", "engram"):
            close = difflib.get_close_matches(key, known, 1)
            hint = f"did you mean {close[0]}?" if close else None
            raise _fail(key, value, "a key of the DeepSeek-V4 configuration", hint)
        fixed = _FIXED | _FIXED_EXTRA
        if key in fixed:
            if value is not None and value != fixed[key]:
                raise _fail(key, value, repr(fixed[key]))
        elif key in _FIELDS and key not in ("rope_scaling", "compress_ratios"):
            _check_value(key, value)
            result[key] = value
    _merge_transformers(values, result)
    _merge_rope(values, result)
    if "quantization_config" in values:
        _check_quantization(values["quantization_config"])
    ratios = _ratios(values, result)
    result["compress_ratios"] = ratios
    if any(key.startswith("dspark_") for key in values):
        result["draft_stages"] = max(len(ratios) - result.get("num_hidden_layers", 0), 0)
    result["engram"] = engrams.from_json(
        {key: value for key, value in values.items() if key.startswith(engrams.PREFIX)}
    )
    result.setdefault("expert_dtype", None)
    for name, spec in _FIELDS.items():
        required = (
            spec.default is dataclasses.MISSING and spec.default_factory is dataclasses.MISSING
        )
        if required and name not in result:
            raise ConfigError(
                f"config: {name} is missing", "every size of the architecture must be given"
            )
        if spec.type == "float" and type(result.get(name)) is int:
            result[name] = float(result[name])
    return ModelConfig(**result)


def _merge_transformers(values: Mapping[str, Any], result: dict[str, Any]) -> None:
    """Fold transformers' spelling of heads, experts and routing into `result`."""

    def put(name: str, value: Any, key: str) -> None:
        if name in result and result[name] != value:
            raise _fail(key, values[key], f"agreement with {name} = {result[name]!r}")
        result[name] = value

    for key, name in (
        ("num_local_experts", "n_routed_experts"),
        ("intermediate_size", "moe_intermediate_size"),
    ):
        if values.get(key) is not None:
            put(name, values[key], key)
    factor = values.get("partial_rotary_factor")
    if factor is not None:
        if not _is_number(factor) or not 0 < factor <= 1 or "head_dim" not in result:
            raise _fail("partial_rotary_factor", factor, "a fraction of head_dim, up to 1")
        put("qk_rope_head_dim", round(factor * result["head_dim"]), "partial_rotary_factor")
    kinds = values.get("mlp_layer_types")
    if kinds is not None:
        hashed = kinds.count("hash_moe") if isinstance(kinds, list) else -1
        if hashed < 0 or kinds != ["hash_moe"] * hashed + ["moe"] * (len(kinds) - hashed):
            raise _fail("mlp_layer_types", kinds, "some 'hash_moe', then only 'moe'")
        put("num_hash_layers", hashed, "mlp_layer_types")
    for key, want in (("compress_rate_csa", CSA), ("compress_rate_hca", HCA)):
        if values.get(key, want) != want:
            raise _fail(key, values[key], str(want))
    rates = {name: ratio for name, ratio in LAYER_TYPES.items() if ratio}
    if values.get("compress_rates") not in (None, rates):
        raise _fail("compress_rates", values["compress_rates"], str(rates))


def _ratios(values: Mapping[str, Any], result: Mapping[str, Any]) -> tuple[int, ...]:
    """`compress_ratios` from either dialect, with the entries of the MTP blocks."""
    ratios, types = values.get("compress_ratios"), values.get("layer_types")
    if ratios is not None:
        whole = isinstance(ratios, list | tuple) and len(ratios) <= 4096
        if not whole or any(type(ratio) is not int for ratio in ratios):
            raise _fail("compress_ratios", ratios, "a list of 0, 4 or 128")
    if types is None:
        if ratios is None:
            raise ConfigError("config: compress_ratios is missing", "one entry per layer")
        return tuple(ratios)
    named_well = isinstance(types, list) and all(isinstance(kind, str) for kind in types)
    if not named_well or any(kind not in LAYER_TYPES for kind in types):
        raise _fail("layer_types", types, " | ".join(LAYER_TYPES))
    named = [LAYER_TYPES[kind] for kind in types]
    if ratios is not None and list(ratios[: len(named)]) != named:
        raise _fail("layer_types", types, f"agreement with compress_ratios = {list(ratios)}")
    if ratios is not None:
        return tuple(ratios)
    blocks = result.get("num_nextn_predict_layers", 1)
    return tuple(named + [0] * (blocks if blocks in (0, 1) else 1))


def _merge_rope(values: Mapping[str, Any], result: dict[str, Any]) -> None:
    """Fold `rope_scaling` and transformers' `rope_parameters` (nested or flat) into `result`."""
    blocks = [(key, values[key]) for key in ("rope_scaling", "rope_parameters") if values.get(key)]
    for key, block in blocks:
        if not isinstance(block, Mapping):
            raise _fail(key, block, "an object with the YaRN settings")
        if "main" in block or "compress" in block:
            for part, theta in (("main", "rope_theta"), ("compress", "compress_rope_theta")):
                if not isinstance(block.get(part), Mapping):
                    raise _fail(f"{key}.{part}", block.get(part), "an object")
                _merge_rope_part(f"{key}.{part}", block[part], theta, result)
            block, key = block["compress"], f"{key}.compress"
        yarn = _yarn(key, block)
        if result.setdefault("rope_scaling", yarn) != yarn:
            raise _fail(key, dict(block), "agreement with rope_scaling")


def _merge_rope_part(
    key: str, block: Mapping[str, Any], theta: str, result: dict[str, Any]
) -> None:
    """The base and the rotated share that one nested block of `rope_parameters` repeats."""
    if "rope_theta" in block:
        value = block["rope_theta"]
        if not _is_number(value) or value <= 1:
            raise _fail(f"{key}.rope_theta", value, "a number above 1")
        if result.setdefault(theta, value) != value:
            raise _fail(f"{key}.rope_theta", value, f"agreement with {theta} = {result[theta]}")
    factor = block.get("partial_rotary_factor")
    if factor is not None and "qk_rope_head_dim" in result:
        rotated = result["qk_rope_head_dim"]
        if not _is_number(factor) or round(factor * result["head_dim"]) != rotated:
            allowed = f"agreement with qk_rope_head_dim = {rotated}"
            raise _fail(f"{key}.partial_rotary_factor", factor, allowed)


def _yarn(where: str, block: Mapping[str, Any]) -> YarnScaling:
    """A YaRN block, every key checked."""
    names = {f.name for f in dataclasses.fields(YarnScaling)}
    passive = {"type", "rope_type", "rope_theta", "partial_rotary_factor", "attention_factor"}
    for key, value in block.items():
        if key in ("type", "rope_type") and value != "yarn":
            raise _fail(f"{where}.{key}", value, "'yarn'")
        if key == "attention_factor" and value != 1:
            raise _fail(f"{where}.{key}", value, "1 (V4 applies no mscale)")
        if key not in names | passive:
            raise _fail(f"{where}.{key}", value, ", ".join(sorted(names)))
        if key in names and not (_is_number(value) and value > 0):
            raise _fail(f"{where}.{key}", value, "a positive finite number")
    return YarnScaling(**{key: block[key] for key in names if key in block})


def _check_quantization(block: Any) -> None:
    """Refuse a `quantization_config` that is not the released FP8 layout."""
    if not isinstance(block, Mapping):
        raise _fail("quantization_config", block, "an object")
    expected: dict[str, tuple[Any, ...]] = {
        "quant_method": ("fp8",),
        "fmt": ("e4m3",),
        "activation_scheme": ("dynamic",),
        "scale_fmt": ("ue8m0",),
        "weight_block_size": ([128, 128],),
        "expert_dtype": ("fp4", "fp8"),
    }
    for key, allowed in expected.items():
        if block.get(key, allowed[0]) not in allowed:
            shown = " or ".join(map(repr, allowed))
            raise _fail(f"quantization_config.{key}", block[key], shown)


def load(path: str | Path) -> ModelConfig:
    """Read `config.json` (a file, or the folder that holds it). Raises ConfigError."""
    path = Path(path)
    if path.is_dir():
        path = path / "config.json"
    try:
        size = path.stat().st_size
    except OSError as error:
        raise ConfigError(
            f"no configuration at {path}", "a model folder holds a config.json"
        ) from error
    if size > MAX_CONFIG_BYTES:
        raise ConfigError(f"{path} has {size} bytes; a configuration has a few thousand")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError, OSError) as error:
        raise ConfigError(f"{path} is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path} does not hold a JSON object")
    return from_dict(values)
