"""Small checkpoints, and ways to spoil them."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from dsv4.checkpoint.folder import INDEX_NAME
from dsv4.config import ModelConfig
from dsv4.model.transformer import Transformer
from dsv4.model.weights import weights
from dsv4.numerics.quantized import QuantizedTensor, Weight

WEIGHTS = "model-00001-of-00001.safetensors"

MICRO = ModelConfig(
    vocab_size=40,
    hidden_size=96,
    moe_intermediate_size=160,
    num_hidden_layers=3,
    num_attention_heads=2,
    head_dim=32,
    qk_rope_head_dim=16,
    q_lora_rank=32,
    o_groups=2,
    o_lora_rank=32,
    index_n_heads=2,
    index_head_dim=16,
    index_topk=64,
    n_routed_experts=3,
    num_experts_per_tok=2,
    routed_scaling_factor=1.5,
    compress_ratios=(0, 4, 128, 0),
    num_hash_layers=1,
    sliding_window=8,
)
"""Every kind of tensor, few of each; sizes are no multiples of 128 on purpose."""


def edit_tensors(folder: Path, edit: Callable[[dict[str, Tensor]], None]) -> None:
    """Change the tensors of a one-file folder; the index follows."""
    tensors = {name: tensor.clone() for name, tensor in load_file(folder / WEIGHTS).items()}
    edit(tensors)
    save_file(tensors, folder / WEIGHTS)
    index = {"weight_map": dict.fromkeys(tensors, WEIGHTS)}
    (folder / INDEX_NAME).write_text(json.dumps(index))


def edit_config(folder: Path, **changes: Any) -> None:
    """Change keys of config.json; None removes a key."""
    values = json.loads((folder / "config.json").read_text()) | changes
    kept = {key: value for key, value in values.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(kept))


def edit_header(folder: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    """Change what a weight file claims, and leave its data as they are."""
    raw = (folder / WEIGHTS).read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8 : 8 + length])
    edit(header)
    text = json.dumps(header).encode()
    (folder / WEIGHTS).write_bytes(struct.pack("<Q", len(text)) + text + raw[8 + length :])


def same_weights(a: Transformer, b: Transformer) -> bool:
    """Whether two models hold the same bits in the same formats."""
    left, right = dict(weights(a)), dict(weights(b))
    if left.keys() != right.keys():
        return False
    return all(same_weight(x, right[name]) for name, x in left.items())


def same_weight(x: Weight, y: Weight) -> bool:
    """Whether two weights are the same bits in the same format."""
    if isinstance(x, QuantizedTensor) and isinstance(y, QuantizedTensor):
        pairs = [(x.data, y.data), (x.scale, y.scale)] if x.format == y.format else []
    else:
        pairs = [(x, y)] if isinstance(x, Tensor) and isinstance(y, Tensor) else []
    return bool(pairs) and all(
        p.dtype == q.dtype and torch.equal(p.view(torch.uint8), q.view(torch.uint8))
        for p, q in pairs
    )
