"""A built model divided between the processes of a data-parallel run (FSDP2).

Every layer is a unit, the rest of the model is one more. Parameters, gradients and optimizer
state are divided by rows; the whole weights of a unit are gathered before it runs and stay until
its gradients are summed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

from dsv4.model.block import Block
from dsv4.model.transformer import Transformer
from dsv4.parallel.group import settle, size, whole

ENTRANCES = ("features", "next_features", "predict_next")
"""Methods besides `forward` that training runs a model by."""


def divide(model: Transformer) -> None:
    """Divide a model in place. What no gradient moves (router biases) stays whole everywhere."""
    device = next(model.parameters()).device.type
    mesh = init_device_mesh(device, (size(),))
    fixed = {p for p in model.parameters() if not p.requires_grad}
    units: Sequence[nn.Module] = (*model.layers, model)
    for unit in units:
        fully_shard(unit, mesh=mesh, reshard_after_forward=False, ignored_params=fixed)
    for name in ENTRANCES:
        register_fsdp_forward_method(model, name)
    for module in model.modules():
        if isinstance(module, Block):
            module.register_forward_hook(_complete_gradients)


def gathered(model: Transformer) -> Transformer:
    """An undivided model with the weights of a divided one; every process has to ask."""
    settle(model)
    made = Transformer(model.config, model.numerics)
    own = dict(made.named_parameters()) | dict(made.named_buffers())
    with torch.no_grad():
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            own[name].copy_(whole(tensor))
    return made


def _complete_gradients(block: nn.Module, args: Any, output: Any) -> None:
    """Processes add up gradients tensor by tensor: none may lack that of an expert that no token
    of its batch chose."""

    def fill(grad: Tensor) -> None:
        for name, parameter in block.named_parameters():
            if ".experts." in name and parameter.requires_grad and parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)

    if output[0].requires_grad:
        output[0].register_hook(fill)
