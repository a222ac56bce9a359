"""The weight files of a folder: which tensors they hold, without reading any.

Only safetensors are opened. The safetensors library checks that a header is sound and fits its
file; mapping the tensors is done here. Nothing is ever unpickled.
"""

from __future__ import annotations

import json
import mmap
import re
import struct
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from dsv4.errors import CheckpointError

INDEX_NAME = "model.safetensors.index.json"
MAX_INDEX_BYTES = 256 << 20
_PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+=-]{0,200}\.safetensors")
_PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")

_LIBRARY_ERRORS = (SafetensorError, OSError, RuntimeError, TypeError, ValueError, OverflowError)
_DAMAGED_HINT = "a file may be truncated or changed: download or write it again"

# Python names this constant from 3.13 on.
_NORESERVE = 0x4000 if sys.platform == "linux" else 0

DTYPES = {
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E8M0": torch.float8_e8m0fnu,
    "I8": torch.int8,
    "I32": torch.int32,
    "I64": torch.int64,
}
"""The dtypes of safetensors that a V4 checkpoint may use."""


@dataclass(frozen=True, slots=True)
class Stored:
    """One tensor in a file (or a matrix of a stacked one): where it is, what it claims to be.

    `dtype` is the name safetensors gives it, `offset` the position of its first byte in the file.
    """

    file: Path
    name: str
    shape: tuple[int, ...]
    dtype: str
    offset: int

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * DTYPES[self.dtype].itemsize

    @property
    def aligned(self) -> bool:
        """Whether the numbers start where torch can use them without a copy."""
        return self.offset % DTYPES[self.dtype].itemsize == 0


@dataclass(slots=True)
class Reader:
    """Maps tensors of several files; each file is mapped once, while the reader lives.

    Tensors keep their file mapped on their own. Making one touches no page of it (the library's
    `get_tensor` reads a page of every tensor, which for 69,187 of them takes gigabytes of cache
    and as many disk reads); pages are read when numbers are.
    """

    _files: dict[Path, Tensor] = field(default_factory=dict)

    def tensor(self, stored: Stored) -> Tensor:
        """The mapped tensor of an entry. Raises CheckpointError if it cannot be mapped."""
        try:
            raw = self._files.get(stored.file)
            if raw is None:
                raw = self._files[stored.file] = _map(stored.file)
            raw = raw[stored.offset : stored.offset + stored.nbytes]
            if not stored.aligned:
                raw = raw.clone()
            return raw.view(DTYPES[stored.dtype]).view(stored.shape)
        except _LIBRARY_ERRORS as error:
            raise CheckpointError(
                f"{stored.file.name} is damaged: {_first_line(error)}", _DAMAGED_HINT
            ) from error


def _map(path: Path) -> Tensor:
    """The bytes of a file, mapped: writing to them changes memory only, never the file.

    A private mapping normally reserves memory for the case that all of it is written to, so
    that a file larger than memory could not be mapped at all; NORESERVE asks not to.
    """
    with path.open("rb") as file:
        if sys.platform == "win32":
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        else:
            protection = mmap.PROT_READ | mmap.PROT_WRITE
            flags = mmap.MAP_PRIVATE | _NORESERVE
            mapped = mmap.mmap(file.fileno(), 0, flags=flags, prot=protection)
    return torch.frombuffer(mapped, dtype=torch.uint8)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [repr(error)])[0][:200]


def read_stored(folder: Path) -> dict[str, Stored]:
    """Name -> entry of every tensor in the folder's weight files; reads headers only.

    Raises CheckpointError for a folder without safetensors, a broken index, a file that is
    missing or damaged, and a tensor that is in two files or not where the index says.
    """
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is not a folder", "give a folder with model weights")
    weight_map = _read_index(folder)
    names = sorted(set(weight_map.values())) if weight_map else _loose_files(folder)
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise CheckpointError(
            f"{folder}: {listing(missing, 'weight file')} named by {INDEX_NAME} missing",
            "the download may be incomplete",
        )
    found: dict[str, Stored] = {}
    for name, entries in _read_headers(folder, names).items():
        for stored in entries:
            if stored.name in found:
                raise CheckpointError(
                    f"{folder}: tensor {stored.name} is in two files, "
                    f"{found[stored.name].file.name} and {name}"
                )
            found[stored.name] = stored
    lost = [
        tensor
        for tensor, name in weight_map.items()
        if tensor not in found or found[tensor].file.name != name
    ]
    if lost:
        raise CheckpointError(
            f"{folder}: {listing(lost, 'tensor')} not in the file that {INDEX_NAME} names",
            "index and weight files belong to different models",
        )
    return found


def _loose_files(folder: Path) -> list[str]:
    """Weight files of a folder without an index."""
    names = sorted(path.name for path in folder.glob("model*.safetensors"))
    if names:
        return names
    pickled = sorted(path.name for pattern in _PICKLED for path in folder.glob(pattern))
    if pickled:
        raise CheckpointError(
            f"{folder} holds only pickled weights ({pickled[0]})",
            "pickles can run code and are never opened; convert them to safetensors",
        )
    raise CheckpointError(
        f"{folder} holds no model*.safetensors", "the weights of a model are safetensors files"
    )


def _read_index(folder: Path) -> Mapping[str, str]:
    """The `weight_map` of the index file, every file name checked; empty without an index."""
    path = folder / INDEX_NAME
    if not path.exists():
        return {}
    try:
        size = path.stat().st_size
        if size > MAX_INDEX_BYTES:
            raise CheckpointError(f"{path} has {size} bytes; an index has a few million")
        index = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError, OSError) as error:
        raise CheckpointError(f"{path} is not JSON: {str(error)[:200]}") from error
    weight_map = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{path} has no weight_map")
    for tensor, name in weight_map.items():
        if not isinstance(name, str) or not _PLAIN_NAME.fullmatch(name):
            raise CheckpointError(
                f"{path}: {tensor[:100]!a} is said to be in {ascii(name)[:100]}",
                "an index names *.safetensors files of its own folder, without any path",
            )
    return weight_map


def _read_headers(folder: Path, names: list[str]) -> dict[str, list[Stored]]:
    """The entries of each file; one CheckpointError names every damaged file."""
    headers: dict[str, list[Stored]] = {}
    damaged: list[str] = []
    for name in names:
        try:
            headers[name] = _read_header(folder / name)
        except _LIBRARY_ERRORS as error:
            damaged.append(f"{name}: {_first_line(error)}")
    if damaged:
        raise CheckpointError(f"{folder}: {listing(damaged, 'damaged weight file')}", _DAMAGED_HINT)
    return headers


def _read_header(path: Path) -> list[Stored]:
    with safe_open(path, "np"):
        pass  # the library has checked that header and file fit together
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    return [
        Stored(path, name, tuple(entry["shape"]), entry["dtype"], 8 + length + start)
        for name, entry in header.items()
        for start in entry["data_offsets"][:1]
    ]


def listing(items: list[str], noun: str, limit: int = 10) -> str:
    """`3 tensors (a, b, c)`, cut after `limit` names."""
    shown = ", ".join(_printable(item) for item in items[:limit])
    if len(items) > limit:
        shown += f", and {len(items) - limit} more"
    return f"{len(items)} {noun}{'s' if len(items) != 1 else ''} ({shown})"


def _printable(text: str) -> str:
    """`text` shortened, and escaped where a terminal might obey it."""
    text = text[:160]
    return text if text.isprintable() else ascii(text)
