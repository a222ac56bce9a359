"""`dsv4 export`: a model folder in another layout."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from dsv4.cli.options import ModelArgument


class LayoutName(StrEnum):
    """The layouts a folder can have."""

    RELEASED = "released"
    TRANSFORMERS = "transformers"


KEPT = ("tokenizer.json", "tokenizer_config.json", "generation_config.json")
"""Files that are copied as they are."""


def export(
    model: ModelArgument,
    out: Annotated[Path, typer.Argument(help="Folder to write.", metavar="OUT")],
    layout: Annotated[
        LayoutName, typer.Option(help="released: FP8 and FP4; transformers: dequantised.")
    ] = LayoutName.TRANSFORMERS,
    overwrite: Annotated[bool, typer.Option(help="Replace a model that is there.")] = False,
) -> None:
    """Rewrite a model folder in another layout.

    `released` is the layout of the official folders, `transformers` the one that
    DeepseekV4ForCausalLM loads (float32, without the MTP block).
    """
    from dsv4 import checkpoint, locate
    from dsv4.cli.console import note, progress
    from dsv4.encoding.tokenizer import Tokenizer

    folder = locate.folder(model)
    transformer = checkpoint.load(
        folder, canonical_ids=lambda size: Tokenizer.from_folder(folder).canonical_ids(size)
    )
    write = (
        checkpoint.export_released
        if layout is LayoutName.RELEASED
        else checkpoint.export_transformers
    )
    with progress("export") as done:
        write(transformer, out, overwrite=overwrite, progress=done)
    copy_kept(folder, out)
    note(f"{out}: {layout.value} layout")


def copy_kept(folder: Path, out: Path) -> None:
    """Copy the files of a model folder that are no weights."""
    import shutil

    for name in KEPT:
        if (folder / name).is_file() and (folder / name).resolve() != (out / name).resolve():
            shutil.copyfile(folder / name, out / name)
