"""Writing safetensors files piece by piece, and folders that are whole or not there at all."""

from __future__ import annotations

import json
import os
import re
import shutil
import struct
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import torch
from torch import Tensor

from dsv4.checkpoint.folder import DTYPES, INDEX_NAME
from dsv4.checkpoint.layout import TensorSpec
from dsv4.errors import CheckpointError

if sys.platform != "win32":
    import fcntl

Progress = Callable[[int, int], None]
"""Called with (bytes written, bytes in all) as writing goes on."""

_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_CONFIG_NAME = "config.json"
_STAGE_PREFIX = ".partial-"
_STAGE_NAME = re.compile(r"\.partial-[a-z0-9_]{8}")


def safetensors_dtype(dtype: torch.dtype) -> str:
    """What safetensors calls a dtype."""
    return _NAMES[dtype]


def shard_name(index: int, count: int) -> str:
    """Name of weight file `index` (from 0) of `count`."""
    return f"model-{index + 1:05d}-of-{count:05d}.safetensors"


def write_tensors(
    path: Path,
    specs: Sequence[TensorSpec],
    pieces: Callable[[TensorSpec], Iterable[Tensor]],
    metadata: Mapping[str, str] | None = None,
) -> Iterator[int]:
    """Write one file; yields the size of each piece once it is written.

    `pieces(spec)` gives the values of a tensor in order, as tensors of its dtype of any shape, so
    that no tensor has to be in memory at once. `metadata` stands in the file's header.
    """
    # Wide elements first: then every tensor starts at a multiple of its element size.
    specs = sorted(specs, key=lambda spec: (-spec.dtype.itemsize, spec.name))
    header: dict[str, Any] = {"__metadata__": {"format": "pt", **(metadata or {})}}
    position = 0
    for spec in specs:
        header[spec.name] = {
            "dtype": safetensors_dtype(spec.dtype),
            "shape": list(spec.shape),
            "data_offsets": [position, position + spec.nbytes],
        }
        position += spec.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("xb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for spec in specs:
            written = 0
            for piece in pieces(spec):
                assert piece.dtype == spec.dtype, (spec, piece.dtype)
                raw = piece.detach().contiguous().view(-1).view(torch.uint8)
                file.write(raw.numpy().data)
                written += raw.numel()
                yield raw.numel()
            assert written == spec.nbytes, (spec, written)
        file.flush()
        os.fsync(file.fileno())


def write_checkpoint(
    folder: Path | str,
    shards: Sequence[Sequence[TensorSpec]],
    pieces: Callable[[TensorSpec], Iterable[Tensor]],
    config: dict[str, Any],
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> None:
    """Write weight files, index and config.json; see `staged` for what a failure leaves behind.

    Raises CheckpointError if the folder holds a model already (and `overwrite` is not given), if
    it cannot be written to, or if the disk is too small.
    """
    total = sum(spec.nbytes for shard in shards for spec in shard)
    with staged(Path(folder), overwrite=overwrite, needed=total) as stage:
        done = 0
        weight_map: dict[str, str] = {}
        for i, shard in enumerate(shards):
            name = shard_name(i, len(shards))
            weight_map |= {spec.name: name for spec in shard}
            for size in write_tensors(stage / name, shard, pieces):
                done += size
                if progress is not None:
                    progress(done, total)
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
        (stage / INDEX_NAME).write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")
        (stage / _CONFIG_NAME).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


@contextmanager
def staged(folder: Path, *, overwrite: bool, needed: int) -> Iterator[Path]:
    """A temporary folder whose files move into `folder` once they are all written.

    If anything fails before that, `folder` is as it was. The move itself goes: old config.json
    away, old weights away, new files in, new config.json last; a folder without config.json is
    no model, so no mixture of two models can ever be loaded. Other files (a tokenizer) stay.
    """
    if _holds_model(folder) and not overwrite:
        raise CheckpointError(
            f"{folder} already holds a model", "choose another folder, or ask to overwrite it"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _remove_stale(folder)
        stage = Path(mkdtemp(prefix=_STAGE_PREFIX, dir=folder))
    except OSError as error:
        raise CheckpointError(f"cannot write to {folder}: {error.strerror or error}") from error
    lock = _lock(stage)
    try:
        free = shutil.disk_usage(folder).free
        if free < needed:
            raise CheckpointError(
                f"{folder}: {needed / 2**30:.1f} GiB are needed, the disk has {free / 2**30:.1f}",
                "choose another disk",
            )
        try:
            yield stage
            _move_in(stage, folder)
        except OSError as error:
            raise CheckpointError(f"writing {folder} failed: {error.strerror or error}") from error
    finally:
        shutil.rmtree(stage, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def _lock(stage: Path) -> int | None:
    """A descriptor that holds a lock on a stage, which goes when the process does.

    None if another process has it, or where folders cannot be locked.
    """
    if sys.platform == "win32":
        return None
    try:
        descriptor = os.open(stage, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def _remove_stale(folder: Path) -> None:
    """Remove what exports into `folder` left when they were killed.

    That is: folders named as `staged` names them, holding only files that exports write, whose
    lock no running export has.
    """
    for stage in folder.glob(f"{_STAGE_PREFIX}*"):
        if not _STAGE_NAME.fullmatch(stage.name) or stage.is_symlink() or not stage.is_dir():
            continue
        if not all(_is_written(path) for path in stage.iterdir()):
            continue
        lock = _lock(stage)
        if lock is not None:
            shutil.rmtree(stage, ignore_errors=True)
            os.close(lock)


def _is_written(path: Path) -> bool:
    """Whether a file has a name that `write_checkpoint` gives."""
    ours = path.name in (INDEX_NAME, _CONFIG_NAME) or path.match("model-*-of-*.safetensors")
    return ours and path.is_file() and not path.is_symlink()


def _holds_model(folder: Path) -> bool:
    return (folder / _CONFIG_NAME).exists() or any(folder.glob("*.safetensors"))


def _move_in(stage: Path, folder: Path) -> None:
    (folder / _CONFIG_NAME).unlink(missing_ok=True)
    for old in (*folder.glob("model*.safetensors"), folder / INDEX_NAME):
        old.unlink(missing_ok=True)
    for new in sorted(stage.iterdir(), key=lambda path: (path.name == _CONFIG_NAME, path.name)):
        new.replace(folder / new.name)
