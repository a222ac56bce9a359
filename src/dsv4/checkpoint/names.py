"""Tensor names of the transformers layout, derived from the released ones by a table.

transformers knows two spellings of a V4 checkpoint: its own (`model.layers.0.self_attn...`, routed
experts stacked into one tensor per layer) and the one `save_pretrained` writes by default, which
turns most names back into released ones (`model.layers.0.attn...`). Both are read, its own is
written.
"""

from __future__ import annotations

from collections.abc import Iterator

# (released, transformers) parts, longest match first; what is not listed stays.
_TOP = {
    "embed.weight": "model.embed_tokens.weight",
    "head.weight": "lm_head.weight",
    "norm.weight": "model.norm.weight",
    "hc_head_fn": "model.hc_head.hc_fn",
    "hc_head_base": "model.hc_head.hc_base",
    "hc_head_scale": "model.hc_head.hc_scale",
}
_LAYER = (
    ("attn_norm.", "input_layernorm."),
    ("ffn_norm.", "post_attention_layernorm."),
    ("hc_attn_", "attn_hc."),
    ("hc_ffn_", "ffn_hc."),
    ("attn.indexer.compressor.", "self_attn.compressor.indexer."),
    ("attn.indexer.weights_proj.", "self_attn.compressor.indexer.scorer.weights_proj."),
    ("attn.indexer.", "self_attn.compressor.indexer."),
    ("attn.", "self_attn."),
    ("ffn.", "mlp."),
)
_ATTENTION = {
    "attn_sink": "sinks",
    "wq_a": "q_a_proj",
    "wq_b": "q_b_proj",
    "wkv": "kv_proj",
    "wgate": "gate_proj",
    "wo_a": "o_a_proj",
    "wo_b": "o_b_proj",
    "q_norm": "q_a_norm",
    "norm": "kv_norm",
    "ape": "position_bias",
}
_SHARED = {"w1": "gate_proj", "w2": "down_proj", "w3": "up_proj"}


def scale_alias(name: str) -> str:
    """transformers' name of the block scales `x.scale`, given in either prefix spelling."""
    return name.removesuffix(".scale") + ".weight_scale_inv"


def stacked_experts(layer: int) -> dict[str, tuple[str, ...]]:
    """transformers' stacked tensors of a layer and the expert matrices each row-joins.

    `gate_up_proj` [E, 2f, d] is w1 above w3, `down_proj` [E, d, f] is w2.
    """
    prefix = f"model.layers.{layer}.mlp.experts."
    return {prefix + "gate_up_proj": ("w1", "w3"), prefix + "down_proj": ("w2",)}


def to_transformers(name: str) -> str:
    """transformers' name of a released tensor (routed experts excepted, which it stacks)."""
    if name in _TOP:
        return _TOP[name]
    layers, number, rest = name.split(".", 2)
    assert layers == "layers", name
    match = next(((old, new) for old, new in _LAYER if rest.startswith(old)), None)
    assert match is not None, f"{name} has no transformers name"
    tail, other = rest.removeprefix(match[0]), match[1]
    first, dot, last = tail.partition(".")
    if other.startswith("self_attn"):
        first = _ATTENTION.get(first, first)
        if first == "compressor":
            inner, dot_inner, leaf = last.partition(".")
            last = _ATTENTION.get(inner, inner) + dot_inner + leaf
    elif other == "mlp." and first == "gate" and last == "bias":
        last = "e_score_correction_bias"
    elif other == "mlp." and first == "shared_experts":
        matrix, _, leaf = last.partition(".")
        last = f"{_SHARED[matrix]}.{leaf}"
    full = f"model.layers.{number}.{other}{first}{dot}{last}"
    return scale_alias(full) if full.endswith(".scale") and "_hc." not in full else full


def aliases(name: str) -> Iterator[str]:
    """Every name under which a transformers folder may hold the released tensor `name`."""
    if name.startswith("mtp."):
        yield name  # transformers has no MTP block, hence no name of its own
        return
    if ".ffn.experts." not in name:
        yield to_transformers(name)
    # save_pretrained turns names back, but for the prefix, and calls kv_norm of attention norm.
    # A model that came from files of its own names keeps those, but for the same norms.
    half = name if name == "head.weight" else f"model.{name}"
    spellings = [half]
    if half.endswith(".attn.kv_norm.weight"):
        spellings.append(half.replace(".kv_norm.", ".norm."))
    own = to_transformers(name) if name.endswith("norm.weight") else ""
    if own.endswith(".kv_norm.weight"):
        spellings.append(own.replace(".kv_norm.", ".norm."))
    for spelling in spellings:
        yield spelling
        if spelling.endswith(".scale"):
            yield scale_alias(spelling)
