"""Which weights a folder holds, as a digest: what stored numbers of a model are bound to."""

from __future__ import annotations

import hashlib
from pathlib import Path

from dsv4.checkpoint.folder import read_stored
from dsv4.errors import CheckpointError

SAMPLES = 64
"""Places of a weight file that are read, besides its start: reading all of it takes minutes."""
SAMPLE_BYTES = 1 << 12


TABLE_SAMPLES = 256
"""Places of an Engram table that are read besides: training changes single rows of it."""


def identity(folder: Path) -> bytes:
    """A digest of the configuration and the weight files: sizes, headers and samples.

    Raises CheckpointError if a file cannot be read.
    """
    digest = hashlib.blake2b(digest_size=32)
    try:
        for path in sorted([folder / "config.json", *folder.glob("*.safetensors")]):
            size = path.stat().st_size
            digest.update(f"{path.name}\0{size}\0".encode())
            with path.open("rb") as file:
                header = int.from_bytes(file.read(8), "little") if path.suffix != ".json" else size
                file.seek(0)
                digest.update(file.read(min(8 + header, size)))
                for i in range(SAMPLES):
                    file.seek(size * i // SAMPLES)
                    digest.update(file.read(SAMPLE_BYTES))
        _add_tables(digest, folder)
    except OSError as error:
        raise CheckpointError(f"cannot read {error.filename}: {error.strerror}") from error
    return digest.digest()


def _add_tables(digest: hashlib.blake2b, folder: Path) -> None:
    for name, stored in sorted(read_stored(folder).items()):
        if name.endswith("engram.embed.weight"):
            with stored.file.open("rb") as file:
                for i in range(TABLE_SAMPLES):
                    file.seek(stored.offset + stored.nbytes * i // TABLE_SAMPLES)
                    digest.update(file.read(SAMPLE_BYTES))
