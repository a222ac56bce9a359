"""A model folder as one GGUF file, so that llama.cpp can be measured on the same weights.

    python benchmarks/to_gguf.py FOLDER OUT.gguf [--rest q8_0|bf16|f32] [--chat-template FILE]

Needs the `gguf` package. Routed experts are repacked from FP4 to MXFP4, which changes no value.
The FP8 matrices become Q8_0, as llama.cpp's own converter makes them (it has no FP8 type); the
relative error of a weight is about 0.5 %. `--rest` is the type of the large BF16 matrices:
embedding, head and compressors (`q8_0`, as `llama-quantize` would have them, is the faster;
`bf16` keeps them, as that converter does). Vectors, routers and everything of the
hyper-connections are F32. `f32` makes every matrix F32: no value is changed and llama.cpp does not
round what they are multiplied by; for comparing numbers of small models.

A tokenizer.json in the folder goes into the file; without one the file has none (llama.cpp calls
that `no_vocab`). llama.cpp comes with chat templates in models/templates: `deepseek-ai-DeepSeek-V4`
is its own converter's. There is no MTP block, and llama.cpp knows no Engram.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from vocabulary import PRE, read_vocabulary

from dsv4.checkpoint import make_plan
from dsv4.checkpoint.folder import Reader
from dsv4.checkpoint.plan import Source
from dsv4.config import ModelConfig
from dsv4.errors import CheckpointError, Dsv4Error
from dsv4.numerics.formats import pack_e2m1, unpack_e2m1
from dsv4.numerics.quantized import FP4, QuantizedTensor

try:
    from gguf import GGMLQuantizationType as Kind
    from gguf import GGUFWriter, quants
except ImportError:
    sys.exit("writing GGUF files needs the package gguf: pip install gguf")

ARCH = "deepseek4"
SQRT_SOFTPLUS = 4
"""llama.cpp's number of the router's scoring function."""
MOSTLY_MXFP4_MOE = 38
ALL_F32 = 0
"""llama.cpp's numbers of these mixtures of types; they are only printed."""

Array = npt.NDArray[np.generic]

_TOP = {
    "embed.weight": "token_embd",
    "head.weight": "output",
    "norm.weight": "output_norm",
    "hc_head_fn": "output_hc_fn",
    "hc_head_base": "output_hc_base",
    "hc_head_scale": "output_hc_scale",
}
_LAYER = {
    "attn.attn_sink": "attn_sinks",
    "attn.wq_a.weight": "attn_q_a",
    "attn.wq_b.weight": "attn_q_b",
    "attn.q_norm.weight": "attn_q_a_norm",
    "attn.wkv.weight": "attn_kv",
    "attn.kv_norm.weight": "attn_kv_a_norm",
    "attn.wo_a.weight": "attn_output_a",
    "attn.wo_b.weight": "attn_output_b",
    "attn.compressor.ape": "attn_compressor_ape",
    "attn.compressor.wkv.weight": "attn_compressor_kv",
    "attn.compressor.wgate.weight": "attn_compressor_gate",
    "attn.compressor.norm.weight": "attn_compressor_norm",
    "attn.indexer.wq_b.weight": "indexer.attn_q_b",
    "attn.indexer.weights_proj.weight": "indexer.proj",
    "attn.indexer.compressor.ape": "indexer_compressor_ape",
    "attn.indexer.compressor.wkv.weight": "indexer_compressor_kv",
    "attn.indexer.compressor.wgate.weight": "indexer_compressor_gate",
    "attn.indexer.compressor.norm.weight": "indexer_compressor_norm",
    "attn_norm.weight": "attn_norm",
    "ffn_norm.weight": "ffn_norm",
    "ffn.gate.weight": "ffn_gate_inp",
    "ffn.gate.tid2eid": "ffn_gate_tid2eid",
    "ffn.shared_experts.w1.weight": "ffn_gate_shexp",
    "ffn.shared_experts.w2.weight": "ffn_down_shexp",
    "ffn.shared_experts.w3.weight": "ffn_up_shexp",
}
_EXPERTS = {"w1": "ffn_gate_exps", "w2": "ffn_down_exps", "w3": "ffn_up_exps"}
_IN_F32 = ("ffn.gate.weight", "attn.indexer.weights_proj.weight")
"""Small BF16 matrices whose input llama.cpp would otherwise round to BF16."""


def write_gguf(folder: Path, out: Path, rest: Kind = Kind.Q8_0, template: str = "") -> None:
    """Write the main model of `folder` as `out`. Routed experts have to be stored as FP4.
    `template`: how chats are rendered, in Jinja.

    Raises CheckpointError for a folder that does not hold a model that llama.cpp knows.
    """
    plan, reader = make_plan(folder), Reader()
    if plan.config.engram is not None:
        raise CheckpointError(f"{folder} has an Engram", "llama.cpp has none")
    writer = GGUFWriter(out, ARCH)
    _write_config(writer, plan.config, folder.name)
    writer.add_file_type(ALL_F32 if rest == Kind.F32 else MOSTLY_MXFP4_MOE)
    _write_vocabulary(writer, folder, plan.config.vocab_size)
    if template:
        writer.add_chat_template(template)
    experts: dict[str, list[Source]] = defaultdict(list)
    for source in plan.sources:
        name = source.parameter.name
        if name.startswith("mtp."):
            continue
        if found := re.fullmatch(r"layers\.(\d+)\.ffn\.experts\.(\d+)\.(w\d)\.weight", name):
            layer, number, matrix = found.groups()
            stack = experts[f"blk.{layer}.{_EXPERTS[matrix]}.weight"]
            assert len(stack) == int(number), "experts come in order"
            stack.append(source)
            continue
        data, kind = _convert(source, reader, rest)
        writer.add_tensor(_name(name), data, raw_dtype=kind)
    for name, stack in experts.items():
        matrices = [_quantized(source, reader) for source in stack]
        if rest == Kind.F32:
            values = np.stack([matrix.dequantize().float().numpy() for matrix in matrices])
            writer.add_tensor(name, values, raw_dtype=Kind.F32)
        else:
            blocks = np.stack([_mxfp4(matrix) for matrix in matrices])
            writer.add_tensor(name, blocks, raw_dtype=Kind.MXFP4)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _name(name: str) -> str:
    if name in _TOP:
        return _TOP[name] + ".weight"
    _, layer, rest = name.split(".", 2)
    if rest == "ffn.gate.bias":
        return f"blk.{layer}.exp_probs_b.bias"
    # Hyper-connections and norms of the sublayers are called alike on both sides.
    return f"blk.{layer}.{_LAYER.get(rest, rest)}.weight"


def _convert(source: Source, reader: Reader, rest: Kind) -> tuple[Array, Kind]:
    """The bytes of a tensor that is not a routed expert, and their type."""
    name = source.parameter.name
    if source.format is not None:
        matrix = _quantized(source, reader).dequantize().float()
        return (matrix.numpy(), Kind.F32) if rest == Kind.F32 else (_q8_0(matrix), Kind.Q8_0)
    tensor = reader.tensor(source.data)
    if not tensor.is_floating_point():
        return tensor.to(torch.int32).numpy(), Kind.I32
    kept = tensor.dtype == torch.float32 or name.endswith(_IN_F32)
    if rest == Kind.F32 or tensor.dim() < 2 or kept:
        return tensor.float().numpy(), Kind.F32
    if rest == Kind.Q8_0:
        return _q8_0(tensor.float()), Kind.Q8_0
    return tensor.view(torch.uint8).numpy(), Kind.BF16


def _quantized(source: Source, reader: Reader) -> QuantizedTensor:
    assert source.scale is not None and source.format is not None, source
    return QuantizedTensor(reader.tensor(source.data), reader.tensor(source.scale), source.format)


def _q8_0(weight: Tensor) -> Array:
    """Blocks of 32 int8 with a float16 scale: [out, in] float32 to [out, in/32 * 34] bytes."""
    blocks: Array = quants.quantize(weight.numpy(), Kind.Q8_0)
    return blocks


def _mxfp4(weight: QuantizedTensor) -> Array:
    """[out, in] of FP4 to [out, in/32 * 17] bytes: a scale, then 32 codes.

    Codes and scales have the same meaning on both sides (ggml's table holds twice the values and
    it halves the scale). Only the order differs: byte j holds elements j and j + 16 of a block,
    where the released layout has 2j and 2j + 1.
    """
    assert weight.format is FP4, f"routed experts are {weight.format.name}, not fp4"
    codes = unpack_e2m1(weight.data).unflatten(1, (-1, 2, 16))
    packed = pack_e2m1(codes.transpose(2, 3).flatten(2)).view(torch.uint8)
    scale = weight.scale.view(torch.uint8)[:, :, None]
    blocks: Array = torch.cat((scale, packed), dim=2).flatten(1).numpy()
    return blocks


def _write_vocabulary(writer: GGUFWriter, folder: Path, size: int) -> None:
    if not (folder / "tokenizer.json").is_file():
        writer.add_tokenizer_model("no_vocab")
        return
    vocabulary = read_vocabulary(folder, size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(PRE)
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(vocabulary.kinds)
    writer.add_token_merges(vocabulary.merges)
    writer.add_bos_token_id(vocabulary.bos_id)
    writer.add_eos_token_id(vocabulary.eos_id)
    writer.add_add_bos_token(True)


def _write_config(writer: GGUFWriter, config: ModelConfig, name: str) -> None:
    """Everything llama.cpp asks for besides the tensors. Keys are spelled out here because the
    released `gguf` package does not know this architecture."""
    writer.add_name(name)
    yarn = config.rope_scaling
    values: dict[str, int | float | bool | str] = {
        "vocab_size": config.vocab_size,
        "block_count": config.num_hidden_layers,
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "embedding_length_out": config.hidden_size * config.hc_mult,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": 1,
        "attention.key_length": config.head_dim,
        "attention.value_length": config.head_dim,
        "attention.layer_norm_rms_epsilon": float(config.rms_norm_eps),
        "attention.q_lora_rank": config.q_lora_rank,
        "attention.output_group_count": config.o_groups,
        "attention.output_lora_rank": config.o_lora_rank,
        "attention.sliding_window": config.sliding_window,
        "attention.indexer.head_count": config.index_n_heads,
        "attention.indexer.key_length": config.index_head_dim,
        "attention.indexer.top_k": config.index_topk,
        "attention.compress_rope_freq_base": float(config.compress_rope_theta),
        "rope.dimension_count": config.qk_rope_head_dim,
        "rope.freq_base": float(config.rope_theta),
        "rope.scaling.type": "yarn",
        "rope.scaling.factor": float(yarn.factor),
        "rope.scaling.original_context_length": yarn.original_max_position_embeddings,
        "rope.scaling.yarn_beta_fast": float(yarn.beta_fast),
        "rope.scaling.yarn_beta_slow": float(yarn.beta_slow),
        "expert_count": config.n_routed_experts,
        "expert_used_count": config.num_experts_per_tok,
        "expert_shared_count": config.n_shared_experts,
        "expert_feed_forward_length": config.moe_intermediate_size,
        "expert_gating_func": SQRT_SOFTPLUS,
        "expert_weights_norm": True,
        "expert_weights_scale": float(config.routed_scaling_factor),
        "hash_layer_count": config.num_hash_layers,
        "hyper_connection.count": config.hc_mult,
        "hyper_connection.sinkhorn_iterations": config.hc_sinkhorn_iters,
        "hyper_connection.epsilon": float(config.hc_eps),
    }
    adders = {
        bool: writer.add_bool,
        int: writer.add_uint32,
        float: writer.add_float32,
        str: writer.add_string,
    }
    for key, value in values.items():
        adders[type(value)](f"{ARCH}.{key}", value)  # type: ignore[arg-type]
    writer.add_array(f"{ARCH}.attention.compress_ratios", list(config.layer_ratios))
    limits = [float(config.swiglu_limit)] * config.num_hidden_layers
    writer.add_array(f"{ARCH}.swiglu_clamp_exp", limits)
    writer.add_array(f"{ARCH}.swiglu_clamp_shexp", limits)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--rest", choices=("q8_0", "bf16", "f32"), default="q8_0")
    parser.add_argument("--chat-template", type=Path, metavar="FILE")
    args = parser.parse_args()
    try:
        template = args.chat_template.read_text(encoding="utf-8") if args.chat_template else ""
        write_gguf(args.folder, args.out, Kind[args.rest.upper()], template)
    except (Dsv4Error, OSError) as error:
        hint = getattr(error, "hint", None)
        sys.exit(f"error: {error}" + (f"\nhint: {hint}" if hint else ""))


if __name__ == "__main__":
    main()
