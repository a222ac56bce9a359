"""A built model divided between the processes of a data-parallel run (FSDP2).

Every layer is a unit, the rest of the model is one more. Parameters, gradients and optimizer
state are divided by rows; the whole weights of a unit are gathered before it runs and stay until
its gradients are summed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard

from dsv4.model.block import Block
from dsv4.model.transformer import Transformer
from dsv4.parallel.group import size, whole

R = TypeVar("R")


class Divided(nn.Module):
    """A model divided in place, and the way to run it: `divided(function, ...)` is
    `function(...)` with the whole weights at hand.

    The function is to compute all that is differentiated: weights outside the layers (the head)
    are used more than once on the way to a loss, and must stay until it is done.
    """

    def __init__(self, model: Transformer) -> None:
        super().__init__()
        self.model = model
        device = next(model.parameters()).device.type
        mesh = init_device_mesh(device, (size(),))
        # What no gradient moves (router biases) stays whole everywhere.
        fixed = {p for p in model.parameters() if not p.requires_grad}
        for unit in (*model.layers, self):
            fully_shard(unit, mesh=mesh, reshard_after_forward=False, ignored_params=fixed)
        for module in model.modules():
            if isinstance(module, Block):
                module.register_forward_hook(_complete_gradients)

    def forward(self, function: Callable[..., R], *args: Any) -> R:
        return function(*args)

    def settle(self) -> None:
        """Forget gathered weights that no backward pass has dropped: they will be old soon."""
        for module in self.modules():
            if isinstance(module, FSDPModule):
                module.reshard()

    def gathered(self) -> Transformer:
        """An undivided model with these weights; every process has to ask."""
        self.settle()
        made = Transformer(self.model.config, self.model.numerics)
        own = dict(made.named_parameters()) | dict(made.named_buffers())
        with torch.no_grad():
            for name, tensor in (*self.model.named_parameters(), *self.model.named_buffers()):
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
