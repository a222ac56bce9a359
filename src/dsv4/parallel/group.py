"""The processes of a run, and tensors that are divided between them.

A divided tensor is a DTensor whose rows (dimension 0) lie in the processes one after the other,
as `torch.distributed.fsdp.fully_shard` leaves parameters. Ordinary tensors are whole everywhere.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch import Tensor, nn


@contextlib.contextmanager
def joined(device: str) -> Iterator[None]:
    """Join the processes that torchrun started, if it started this one, inside a `with` block."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    if device.startswith("cuda"):
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


@contextlib.contextmanager
def in_turn() -> Iterator[None]:
    """Have the first process do what is inside a `with` block before the others: what it leaves
    on the disk they find."""
    if rank():
        wait()
    yield
    if not rank():
        wait()


def size() -> int:
    """How many processes there are."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """The number of this process, from 0."""
    return dist.get_rank() if size() > 1 else 0


def alone() -> bool:
    """Whether this is the only process."""
    return size() == 1


def wait() -> None:
    """Go on when all processes are here."""
    if not alone():
        dist.barrier()


def add(tensor: Tensor) -> Tensor:
    """The sum of the processes' tensors, in each of them; in place."""
    if not alone():
        dist.all_reduce(tensor)
    return tensor


def any_of(flag: bool) -> bool:
    """Whether the flag is set in any process."""
    return flag if alone() else bool(add(torch.tensor(int(flag))))


def whole(tensor: Tensor) -> Tensor:
    """The whole of a tensor that may be divided; every process has to ask."""
    return tensor if alone() or not _divided(tensor) else tensor.full_tensor()  # type: ignore[attr-defined]


def own_part(tensor: Tensor) -> Tensor:
    """The part of a tensor that lies in this process; shares its memory."""
    return tensor if alone() or not _divided(tensor) else tensor.to_local()  # type: ignore[attr-defined]


@torch.no_grad()
def keep(tensor: Tensor, values: Tensor) -> None:
    """Copy `values`, which are whole (the first process's count), into a tensor that may be
    divided; every process has to ask."""
    if not alone() and _divided(tensor):
        from torch.distributed.tensor import DTensor, distribute_tensor

        assert isinstance(tensor, DTensor)
        values = distribute_tensor(values, tensor.device_mesh, tensor.placements)
    tensor.copy_(values)


def hand_out(values: Tensor | None, *, like: Tensor, owner: int) -> Tensor:
    """The owner's whole `values`, divided as the tensor `like` is; the others pass None."""
    if alone():
        assert values is not None
        return values
    whole_values = torch.empty(like.shape, device=like.device) if values is None else values
    dist.broadcast(whole_values, owner)
    if not _divided(like):
        return whole_values
    divided = torch.zeros_like(like)
    keep(divided, whole_values)
    return divided


def settle(model: nn.Module) -> None:
    """Forget gathered weights that no backward pass has dropped: they may be old by now."""
    if alone():
        return
    from torch.distributed.fsdp import FSDPModule

    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def _divided(tensor: Tensor) -> bool:
    from torch.distributed.tensor import DTensor  # a second to import, for one process in vain

    return isinstance(tensor, DTensor)
