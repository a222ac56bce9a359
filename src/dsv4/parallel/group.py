"""The processes of a run, and tensors that are divided between them.

A divided tensor is a DTensor whose rows (dimension 0) lie in the processes one after the other,
as `torch.distributed.fsdp.fully_shard` leaves parameters. Ordinary tensors are whole everywhere.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from dsv4.errors import UsageError


@contextlib.contextmanager
def joined(device: str) -> Iterator[None]:
    """Join the processes that torchrun started, if it started this one, inside a `with` block."""
    if started() == 1:
        yield
        return
    if device.startswith("cuda"):
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


def refuse(what: str) -> None:
    """Raise UsageError if torchrun started several processes, for what runs in one."""
    if started() > 1:
        raise UsageError(f"{what} runs in one process", "start it without torchrun")


def started() -> int:
    """How many processes torchrun started."""
    return int(os.environ.get("WORLD_SIZE", "1"))


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
        # NCCL adds up what lies on a GPU only.
        there = tensor.cuda() if dist.get_backend() == "nccl" else tensor
        dist.all_reduce(there)
        if there is not tensor:
            tensor.copy_(there)
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


def wholes(tensors: Sequence[Tensor]) -> Tensor:
    """The wholes of tensors of one shape, stacked, in one exchange; every process has to ask."""
    if alone() or not _divided(tensors[0]):
        return torch.stack(list(tensors))
    rows, share = tensors[0].shape[0], _share(tensors[0])
    own = torch.stack([own_part(tensor) for tensor in tensors])
    return torch.cat(_exchanged(_padded(own, 1, share)), 1)[:, :rows]


def own_parts(values: Tensor, likes: Sequence[Tensor]) -> list[Tensor]:
    """Results handed out by those who computed them, in one exchange.

    `likes` are tensors of one shape; process p has computed the whole results p, p + size, ...
    and gives them, stacked, as `values`. Returns this process's part of every result, divided as
    `likes` are.
    """
    if alone():
        return list(values)
    processes, count = size(), len(likes)
    given = _exchanged(_padded(values, 0, -(-count // processes)))
    results = [given[number % processes][number // processes] for number in range(count)]
    if not _divided(likes[0]):
        return results
    return [_own_rows(result, like) for result, like in zip(results, likes, strict=True)]


@torch.no_grad()
def keep(tensor: Tensor, values: Tensor) -> None:
    """Copy this process's part of `values`, which are whole, into a tensor that may be divided."""
    divided = not alone() and _divided(tensor)
    own_part(tensor).copy_(_own_rows(values, tensor) if divided else values)


def _share(tensor: Tensor) -> int:
    """Rows of a divided tensor in every process but the last ones."""
    return -(-tensor.shape[0] // size())


def _own_rows(values: Tensor, like: Tensor) -> Tensor:
    """The rows of `values` that this process has of a divided tensor."""
    first = rank() * _share(like)
    return values[first : first + _share(like)]


def _padded(tensor: Tensor, along: int, length: int) -> Tensor:
    missing = list(tensor.shape)
    missing[along] = length - missing[along]
    return torch.cat((tensor, tensor.new_zeros(missing)), along)


def _exchanged(tensor: Tensor) -> list[Tensor]:
    """The tensors that the processes give, which have one shape."""
    given = [torch.empty_like(tensor) for _ in range(size())]
    dist.all_gather(given, tensor.contiguous())
    return given


def _divided(tensor: Tensor) -> bool:
    from torch.distributed.tensor import DTensor  # a second to import, for one process in vain

    return isinstance(tensor, DTensor)
