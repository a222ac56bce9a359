"""Reading and replacing a model's weights by their released names."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from dsv4.config import ModelConfig
from dsv4.model.engram import Engram
from dsv4.model.parameters import Dense, Embedding, Linear, Norm, Table
from dsv4.model.transformer import Transformer
from dsv4.numerics.adapted import Adapted, Factor
from dsv4.numerics.quantized import QuantizedTensor, Weight
from dsv4.ops.fused import forget


def _owner(model: nn.Module, name: str) -> tuple[nn.Module, str]:
    path, _, leaf = name.rpartition(".")
    return model.get_submodule(path), leaf


def get_factor(model: Transformer, name: str) -> Factor:
    """What stands in the place of the weight called `name`: itself, or an adapted one."""
    owner, leaf = _owner(model, name)
    value: Factor = getattr(owner, leaf)
    return value


def get_weight(model: Transformer, name: str) -> Weight:
    """The tensor or QuantizedTensor called `name`, e.g. `layers.0.attn.wq_a.weight`; of an adapted
    weight, the sum."""
    value = get_factor(model, name)
    return value.merged() if isinstance(value, Adapted) else value


def set_weight(model: nn.Module, name: str, value: Factor) -> None:
    """Put `value` in the place of the weight called `name` of a model or a part of one, without
    copying it."""
    path = name.split(".")
    for length in range(len(path)):
        forget(model.get_submodule(".".join(path[:length])))
    owner, leaf = _owner(model, name)
    if leaf in owner._buffers:
        assert isinstance(value, Tensor)
        owner._buffers[leaf] = value
        return
    owner._parameters.pop(leaf, None)
    owner._modules.pop(leaf, None)
    owner.__dict__.pop(leaf, None)
    if isinstance(value, QuantizedTensor | Adapted):
        setattr(owner, leaf, value)
    else:
        owner.register_parameter(leaf, nn.Parameter(value.detach(), requires_grad=False))


def weights(model: Transformer) -> Iterator[tuple[str, Weight]]:
    """(released name, value) of every weight, layer by layer; of adapted ones, the sum."""
    for prefix, module in model.named_modules():
        if isinstance(module, Adapted):
            yield prefix, module.merged()
            continue
        dot = f"{prefix}." if prefix else ""
        for leaf, tensor in (*module._parameters.items(), *module._buffers.items()):
            if tensor is not None:
                yield dot + leaf, tensor
        if isinstance(module, Linear | Table) and isinstance(module.weight, QuantizedTensor):
            yield f"{dot}weight", module.weight


def expand_quantized(model: Transformer) -> None:
    """Replace every quantised weight by its float32 value: more memory, no decoding per call."""
    for name, value in list(weights(model)):
        if isinstance(value, QuantizedTensor):
            set_weight(model, name, value.dequantize())


@torch.no_grad()
def init_weights(model: Transformer, seed: int) -> None:
    """Random weights for training from scratch, the same for the same seed.

    | weight                         | value                                                 |
    |--------------------------------|-------------------------------------------------------|
    | matrices, router, embedding    | normal, std `initializer_range`                       |
    | norms                          | 1                                                     |
    | sinks, router bias, ape        | 0                                                     |
    | hc fn                          | normal, std `initializer_range`                       |
    | hc scale                       | 0.01: mixing starts almost static                     |
    | hc base                        | read mainly stream l mod 4, write all, mix by identity|
    | tid2eid                        | K distinct experts per token, all equally often       |
    | Engram tables, convolution     | 0: the memory is exactly silent, yet has a gradient   |
    | Engram gate weights            | 1                                                     |
    | Engram token map               | every token its own canonical id (`set_weight` it)    |
    """
    config = model.config
    rng = torch.Generator().manual_seed(seed)
    std = config.initializer_range
    for module in model.modules():
        if isinstance(module, Linear | Dense | Embedding):
            assert isinstance(module.weight, Tensor)
            module.weight.normal_(0, std, generator=rng)
        elif isinstance(module, Norm):
            module.weight.fill_(1)
    sublayer = 0
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        leaf = name.rpartition(".")[2]
        if leaf == "tid2eid":
            tensor.copy_(_hash_table(config, rng))
        elif leaf == "token_map":
            assert config.engram is not None
            canonical = torch.arange(config.vocab_size)
            tensor.copy_(canonical % config.engram.compressed_vocab_size)
        elif leaf in ("attn_sink", "ape", "bias"):
            tensor.zero_()
        elif leaf.endswith("_fn") or name.endswith("gate.weight"):
            tensor.normal_(0, std, generator=rng)
        elif leaf.endswith("_scale"):
            tensor.fill_(0.01)
        elif leaf == "hc_head_base":
            tensor.zero_()
        elif leaf.endswith("_base"):
            tensor.copy_(_mixing_base(config.hc_mult, sublayer))
            sublayer += 1
    for memory in model.engrams().values():
        init_engram(memory, std, rng)


@torch.no_grad()
def init_engram(memory: Engram, std: float, rng: torch.Generator) -> None:
    """The rows of that table which are about an Engram."""
    assert isinstance(memory.embed.weight, Tensor) and isinstance(memory.wkv.weight, Tensor)
    memory.embed.weight.zero_()
    memory.wkv.weight.normal_(0, std, generator=rng)
    memory.q_weight.fill_(1)
    memory.k_weight.fill_(1)
    if memory.conv is not None:
        memory.conv.norm.weight.fill_(1)
        memory.conv.weight.zero_()


def _mixing_base(streams: int, sublayer: int) -> Tensor:
    """Static mHC bias: collapse mostly one stream, expand to all, keep streams apart."""
    read = torch.full((streams,), -2.0)
    read[sublayer % streams] = 2.0
    return torch.cat((read, torch.zeros(streams), (4 * torch.eye(streams)).flatten()))


def _hash_table(config: ModelConfig, rng: torch.Generator) -> Tensor:
    """`[V, K]` experts per token id: distinct within a token, balanced over the vocabulary."""
    experts, chosen = config.n_routed_experts, config.num_experts_per_tok
    first = torch.randperm(config.vocab_size, generator=rng) % experts
    step = torch.randint(1, max(2, experts // chosen), (config.vocab_size,), generator=rng)
    return (first[:, None] + step[:, None] * torch.arange(chosen)) % experts
