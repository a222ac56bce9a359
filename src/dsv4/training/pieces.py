"""Named tensors in files of limited size, each with a checksum.

    weights-00001.safetensors, weights-00002.safetensors, ...

Tensors follow one another; one that does not fit into what is left of a file begins a new one, and
one larger than a whole file is cut into flat slices, `name@0`, `name@1`, ..., its shape kept in
the metadata of their files.
"""

from __future__ import annotations

import json
import math
import os
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from dsv4.errors import CheckpointError

Checksums = dict[str, tuple[int, int]]
"""File name -> (bytes, CRC-32)."""

_CUT = "@"


def write(
    folder: Path, kind: str, tensors: Iterable[tuple[str, Tensor]], piece_bytes: int
) -> Checksums:
    """Write tensors to `folder/KIND-*.safetensors`, synced to the disk; returns the checksums.

    piece_bytes: the most tensor data of a file; its header of names comes on top.
    """
    done: Checksums = {}
    waiting: dict[str, Tensor] = {}
    shapes: dict[str, list[int]] = {}
    filled = 0

    def flush() -> None:
        nonlocal filled
        name = f"{kind}-{len(done) + 1:05d}.safetensors"
        save_file(waiting, folder / name, metadata={"shapes": json.dumps(shapes)})
        sync(folder / name)
        done[name] = checksum(folder / name)
        waiting.clear()
        shapes.clear()
        filled = 0

    for name, tensor in tensors:
        for key, part in _slices(name, tensor.detach(), piece_bytes):
            nbytes = part.numel() * part.element_size()
            if waiting and filled + nbytes > piece_bytes:
                flush()
            if key != name:
                shapes[name] = list(tensor.shape)
            # A copy: parts of one tensor, or tied tensors, may not share memory in a file.
            waiting[key] = part.cpu().clone()
            filled += nbytes
    if waiting or not done:
        flush()
    return done


def read(folder: Path, kind: str, expected: Checksums) -> dict[str, Tensor]:
    """The tensors of one kind. Raises CheckpointError if a file is missing or damaged."""
    found: dict[str, Tensor] = {}
    slices: dict[str, dict[int, Tensor]] = {}
    shapes: dict[str, list[int]] = {}
    for name in sorted(n for n in expected if n.startswith(f"{kind}-")):
        path = folder / name
        if not path.is_file():
            raise CheckpointError(f"{path} is missing")
        if checksum(path) != tuple(expected[name]):
            raise CheckpointError(f"{path} is damaged: its checksum differs")
        with safe_open(path, framework="pt") as file:
            here: dict[str, list[int]] = json.loads(file.metadata()["shapes"])
            shapes |= here
            for key in sorted(file.keys()):
                owner, _, number = key.rpartition(_CUT)
                if owner in here:
                    slices.setdefault(owner, {})[int(number)] = file.get_tensor(key)
                else:
                    found[key] = file.get_tensor(key)
    for owner, parts in slices.items():
        found[owner] = torch.cat([parts[n] for n in sorted(parts)]).view(shapes[owner])
    return found


def checksum(path: Path) -> tuple[int, int]:
    """(bytes, CRC-32) of a file."""
    crc = 0
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            crc = zlib.crc32(chunk, crc)
        return file.tell(), crc


def sync(path: Path) -> None:
    """Have a file, or the names in a folder, on the disk before going on."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _slices(name: str, tensor: Tensor, piece_bytes: int) -> Iterator[tuple[str, Tensor]]:
    nbytes = tensor.numel() * tensor.element_size()
    if nbytes <= piece_bytes:
        yield name, tensor.contiguous()
        return
    count = math.ceil(tensor.numel() / max(1, piece_bytes // tensor.element_size()))
    for number, part in enumerate(tensor.flatten().chunk(count)):
        yield f"{name}{_CUT}{number}", part
