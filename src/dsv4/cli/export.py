"""`dsv4 export`: a model folder in another layout."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dsv4.cli.options import ModelArgument

if TYPE_CHECKING:
    from dsv4.checkpoint.layout import Storage
    from dsv4.model.transformer import Transformer


class LayoutName(StrEnum):
    """The layouts a folder can have."""

    RELEASED = "released"
    TRANSFORMERS = "transformers"


class Touched(StrEnum):
    """How the matrices that an adapter changes are stored."""

    RELEASED = "released"
    FP8 = "fp8"
    BFLOAT16 = "bfloat16"
    FLOAT32 = "float32"


KEPT = ("tokenizer.json", "tokenizer_config.json", "generation_config.json")
"""Files that are copied as they are."""


def export(
    model: ModelArgument,
    out: Annotated[Path, typer.Argument(help="Folder to write.", metavar="OUT")],
    layout: Annotated[
        LayoutName | None,
        typer.Option(help="released: FP8 and FP4 (default with --adapter); transformers."),
    ] = None,
    adapter: Annotated[
        Path | None, typer.Option(help="Merge this LoRA adapter (PEFT's format).", metavar="FOLDER")
    ] = None,
    touched: Annotated[
        Touched, typer.Option(help="How the released layout stores the merged matrices.")
    ] = Touched.RELEASED,
    any_base: Annotated[
        bool,
        typer.Option("--any-base", help="Merge an adapter that was trained beside other weights."),
    ] = False,
    overwrite: Annotated[bool, typer.Option(help="Replace a model that is there.")] = False,
) -> None:
    """Rewrite a model folder in another layout, or with an adapter merged.

    `released` is the layout of the official folders, `transformers` the one that
    DeepseekV4ForCausalLM loads (float32, without the MTP block). From `released` to
    `released` every tensor keeps the format it has.

    A merged adapter changes the matrices it belongs to and no other tensor. Rounding to FP4 or FP8
    swallows small changes: what is lost is shown, and --touched stores these matrices otherwise,
    which this package loads like any other folder.
    """
    from dsv4 import checkpoint, locate
    from dsv4.cli.console import note, progress
    from dsv4.encoding.tokenizer import Tokenizer
    from dsv4.errors import UsageError

    if layout is None:
        layout = LayoutName.TRANSFORMERS if adapter is None else LayoutName.RELEASED
    if touched is not Touched.RELEASED and (adapter is None or layout is not LayoutName.RELEASED):
        raise UsageError("--touched is for an adapter and the released layout", "leave it out")
    if any_base and adapter is None:
        raise UsageError("--any-base is for an adapter", "leave it out")
    folder = locate.folder(model)
    if out.resolve() == folder.resolve() and adapter is not None:
        raise UsageError(f"{out} is the model itself", "merge into another folder")
    transformer = checkpoint.load(folder, canonical_ids=Tokenizer.canonical_ids_of(folder))
    otherwise = checkpoint.make_plan(folder).otherwise
    if adapter is not None:
        otherwise |= _attach(transformer, adapter, touched, any_base)
    with progress("export") as done:
        if layout is LayoutName.RELEASED:
            checkpoint.export_released(
                transformer, out, otherwise=otherwise, overwrite=overwrite, progress=done
            )
        else:
            checkpoint.export_transformers(transformer, out, overwrite=overwrite, progress=done)
    copy_kept(folder, out)
    if adapter is not None and layout is LayoutName.RELEASED:
        note(_lost(transformer, out))
    note(f"{out}: {layout.value} layout")


def _attach(
    model: Transformer, adapter: Path, touched: Touched, any_base: bool
) -> dict[str, Storage]:
    """Put an adapter beside the model's weights; how the matrices it changes are to be stored."""
    import torch

    from dsv4.checkpoint import layout
    from dsv4.numerics.quantized import FP8
    from dsv4.training.adapters import adapted, attach_adapter

    attach_adapter(model, adapter, any_base=any_base)
    names = {name for name, _ in adapted(model)}
    if touched is Touched.RELEASED:
        parameters = layout.parameters(model.config)
        return {p.name: p.format or p.dtype for p in parameters if p.name in names}
    storages: dict[Touched, Storage] = {
        Touched.FP8: FP8,
        Touched.BFLOAT16: torch.bfloat16,
        Touched.FLOAT32: torch.float32,
    }
    return dict.fromkeys(names, storages[touched])


def _lost(model: Transformer, out: Path) -> str:
    """What the merged matrices lost on the way to `out`, in words."""
    from dsv4 import checkpoint
    from dsv4.training.adapters import merge_error

    found = merge_error(model, checkpoint.load(out))
    return (
        f"{found.matrices} matrices merged; they changed by {found.change:.2%} of their norm, "
        f"and rounding lost {found.error:.2%} of it"
    )


def copy_kept(folder: Path, out: Path) -> None:
    """Copy the files of a model folder that are no weights."""
    import shutil

    for name in KEPT:
        if (folder / name).is_file() and (folder / name).resolve() != (out / name).resolve():
            shutil.copyfile(folder / name, out / name)
