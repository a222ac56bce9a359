"""A golden pack on disk: `tensors.safetensors`, and `pack.json` which says what they are."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from dsv4.errors import CheckpointError, UsageError

FORMAT = 1
MANIFEST, TENSORS = "pack.json", "tensors.safetensors"

MODULES = {
    "window": "attn",
    "entries": "attn.compressor",
    "index keys": "attn.indexer.compressor",
    "selection": "attn.indexer",
    "attention": "attn",
    "affinities": "ffn.gate",
    "choice": "ffn.gate",
    "experts": "ffn",
    "affinities, large": "ffn.gate",
    "experts, large": "ffn",
    "choice, large": "ffn.gate",
    "streams": "",
    "embedded": "",
    "layer": "",
    "prediction": "",
    "logits": "",
}
"""Part -> the module it belongs to, as the released checkpoint calls it; empty: the layer."""

MEASURE = (
    "L2 norm of the difference over the norm of what is stored, all rows together; of choices the "
    "share of the stored ones that were not taken"
)

Tolerance = dict[str, dict[str, float]]


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor. `role`: tokens, input or output. `positions`: of its first axis in the
    prompt; None if rows are compressed entries. `tolerance`, of outputs: how our variants differ
    from it (`measured`) and may differ (`allowed`)."""

    name: str
    layer: str
    kind: str
    module: str
    part: str
    role: str
    dtype: str
    shape: list[int]
    positions: list[int] | None = None
    tolerance: Tolerance | None = None


@dataclass(frozen=True, slots=True)
class Pack:
    """`about`: model, version and machine of what was computed. Names are those of `entries`."""

    about: dict[str, Any]
    entries: tuple[Entry, ...]
    tensors: dict[str, Tensor]

    @property
    def layers(self) -> list[str]:
        """The layers it holds, in order."""
        return list(dict.fromkeys(entry.layer for entry in self.entries))

    def of(self, layer: str, role: str) -> dict[str, tuple[Entry, Tensor]]:
        """Part -> entry and numbers, of a layer's inputs or outputs."""
        return {
            entry.part: (entry, self.tensors[entry.name])
            for entry in self.entries
            if entry.layer == layer and entry.role == role
        }


def entry(
    layer: str,
    kind: str,
    part: str,
    role: str,
    tensor: Tensor,
    positions: Sequence[int] | None,
    tolerance: Tolerance | None = None,
) -> Entry:
    """The description of a tensor, under the name that follows from layer, role and part."""
    slug = part.replace(", ", "_").replace(" ", "_")
    return Entry(
        f"{layer}.{role}.{slug}" if role != "tokens" else f"{layer}.tokens",
        layer,
        kind,
        MODULES.get(part, ""),
        part,
        role,
        str(tensor.dtype).removeprefix("torch."),
        list(tensor.shape),
        None if positions is None else list(positions),
        tolerance,
    )


def new(folder: Path) -> None:
    """Make a folder for a pack. Raises UsageError if it holds something or cannot be made."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise UsageError(f"{folder} is not empty", "give a new folder for the pack")
    except OSError as error:
        raise UsageError(f"cannot write {folder}: {error.strerror or error}") from error


def write(pack: Pack, folder: Path) -> int:
    """Write a pack into a new or empty folder; the bytes written. Raises UsageError as `new`."""
    new(folder)
    try:
        (folder / TENSORS).write_bytes(save(pack.tensors))
        manifest = {
            "format": FORMAT,
            **pack.about,
            "measure": MEASURE,
            "files": {TENSORS: digest(folder / TENSORS)},
            "tensors": [asdict(one) for one in pack.entries],
        }
        text = json.dumps(manifest, indent=1) + "\n"
        (folder / MANIFEST).write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot write {folder}: {error.strerror or error}") from error
    return sum((folder / name).stat().st_size for name in (TENSORS, MANIFEST))


def read(folder: Path) -> Pack:
    """A pack whose files are what its manifest says. Raises CheckpointError if they are not."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        if manifest["format"] != FORMAT:
            raise CheckpointError(
                f"{folder} is a pack of format {manifest['format']}, not {FORMAT}",
                "make it again with `dsv4 verify MODEL --make-pack`",
            )
        for name, wanted in manifest["files"].items():
            if digest(folder / name) != wanted:
                raise CheckpointError(
                    f"{folder / name} is not the file that {MANIFEST} describes",
                    "copy the pack again: its SHA-256 differs",
                )
        entries = tuple(Entry(**values) for values in manifest["tensors"])
        tensors = load_file(folder / TENSORS)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise CheckpointError(
            f"{folder} is no golden pack: {error}", f"a folder with {MANIFEST} and {TENSORS}"
        ) from error
    missing = [
        one.name
        for one in entries
        if one.name not in tensors or list(tensors[one.name].shape) != one.shape
    ]
    if missing:
        raise CheckpointError(f"{folder} lacks tensors, or has others: {', '.join(missing)}")
    about = {name: manifest[name] for name in manifest if name not in _OWN}
    return Pack(about, entries, tensors)


_OWN = ("format", "measure", "files", "tensors")


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
