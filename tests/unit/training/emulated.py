"""A pretend device on a machine without one, as strict as a GPU about where tensors are.

Its tensors call themselves `meta` (a device that torch knows everywhere), hold their numbers in
CPU memory, and refuse to be computed with together with tensors of the CPU, as those of CUDA do.
What a GPU computes otherwise than a CPU, and what its kernels lack, this can not show.
"""

from __future__ import annotations

import contextlib

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing

DEVICE = "meta"
_HERE, _THERE = torch.device("cpu"), torch.device(DEVICE)
_MOVES = ("aten::_to_copy", "aten::copy_")
_INDEXES = ("aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_")


class Far(torch.Tensor):
    """A tensor on the pretend device; `near` holds its numbers."""

    near: torch.Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, near):
        dense = near.layout is torch.strided
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            near.size(),
            strides=near.stride() if dense else None,
            storage_offset=near.storage_offset() if dense else None,
            dtype=near.dtype,
            layout=near.layout,
            device=_THERE,
        )
        made.near = near
        return made

    def __repr__(self):
        return f"Far({self.near})"

    def tolist(self):
        return self.cpu().tolist()

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})


def _each(change, x):
    """Arguments or results of an op with every tensor changed."""
    if isinstance(x, torch.Tensor):
        return change(x)
    if isinstance(x, (list, tuple)):
        return type(x)(_each(change, part) for part in x)
    return x


def _tensors(x):
    found = []
    _each(found.append, x)
    return found


def _run(func, args, kwargs):
    """Run an op on the numbers. Raises RuntimeError for what CUDA refuses."""
    name = func._schema.name
    given = _tensors((*args, *kwargs.values()))
    far = [x for x in given if isinstance(x, Far)]
    assert not any(x.device == _THERE for x in given if not isinstance(x, Far)), f"{name}: lost"
    if far and name not in _MOVES:
        # A GPU may be told a number or places by the CPU, a CPU nothing by a GPU.
        free = _tensors(args[1]) if name in _INDEXES and isinstance(given[0], Far) else []
        for x in given:
            if x.dim() and not isinstance(x, Far) and not any(x is y for y in free):
                raise RuntimeError(f"{name}: {list(x.shape)} is on the CPU, another is not")
    wraps = isinstance(given[0], Far) if name in _MOVES else bool(far)
    if kwargs.get("device") is not None:
        wraps = torch.device(kwargs["device"]) == _THERE
        kwargs = kwargs | {"device": _HERE}

    def near(x):
        return x.near if isinstance(x, Far) else x

    out = func(*_each(near, args), **{k: _each(near, v) for k, v in kwargs.items()})
    if not wraps:
        return out
    wrapped = _each(Far, out)
    if not far or any(x.layout is not torch.strided for x in far + _tensors(wrapped)):
        return wrapped
    return return_and_correct_aliasing(func, args, kwargs, wrapped)


class _Factories(TorchDispatchMode):
    """Tensors that are made on the device."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})


class _Literals(TorchFunctionMode):
    """`torch.tensor(..., device=)`, which works below the ops that `_Factories` sees."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func is torch.tensor and kwargs.get("device") is not None:
            device = kwargs.pop("device")
            return torch.tensor(*args, **kwargs).to(device)
        return func(*args, **kwargs)


@contextlib.contextmanager
def pretended_device():
    """Have the device inside a `with` block; gives its name."""
    with _Literals(), _Factories():
        yield DEVICE
