"""`dsv4 engram`: a memory for a model that has none."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dsv4.cli.export import copy_kept
from dsv4.cli.options import ModelArgument


def engram(
    model: ModelArgument,
    out: Annotated[Path, typer.Argument(help="Folder to write.", metavar="OUT")],
    layers: Annotated[
        str, typer.Option(help="Layers (from 0) that get one, as in 1,14.", metavar="N,N,...")
    ] = "1",
    ngram: Annotated[int, typer.Option(help="Longest n-gram.", min=2, max=16)] = 3,
    heads: Annotated[int, typer.Option(help="Hashes of each n-gram.", min=1, max=64)] = 8,
    channels: Annotated[int, typer.Option(help="Channels of a row.", min=1)] = 32,
    rows: Annotated[int, typer.Option(help="Rows of a table for each hash.", min=1)] = 65536,
    conv: Annotated[
        bool, typer.Option(help="The paper's form, with a convolution; V4.1's is without.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Of the hashes and the new weights.", min=0)] = 0,
    overwrite: Annotated[bool, typer.Option(help="Replace a model that is there.")] = False,
) -> None:
    """Give a model an Engram, a memory of n-grams.

    The tables are empty until they are trained, so the new model computes exactly what the old
    one did. (One in the transformers layout is rounded to the released formats.) The vocabulary is
    copied.
    """
    from dsv4 import checkpoint, locate
    from dsv4.cli.console import note, progress, size
    from dsv4.encoding.tokenizer import Tokenizer
    from dsv4.engram import EngramConfig
    from dsv4.errors import UsageError
    from dsv4.model.retrofit import add_engram

    try:
        numbers = tuple(int(part) for part in layers.split(","))
    except ValueError as error:
        raise UsageError(
            f"--layers {layers!r}", "numbers with commas between, as in 1,14"
        ) from error
    folder = locate.folder(model)
    before = checkpoint.load(folder)
    canonical = Tokenizer.from_folder(folder).canonical_ids(before.config.vocab_size)
    pad = min(2, before.config.vocab_size - 1)
    wanted = EngramConfig(
        numbers, ngram, heads, channels, rows, max(canonical) + 1, pad, seed, conv
    )
    after = add_engram(before, wanted, canonical, seed)
    with progress("write") as done:
        checkpoint.export_released(
            after,
            out,
            otherwise=checkpoint.make_plan(folder).otherwise,
            overwrite=overwrite,
            progress=done,
        )
    copy_kept(folder, out)
    tables = size(sum(e.embed.weight.shape[0] for e in after.engrams().values()) * channels)
    note(f"{out}: Engram in layers {layers}, {tables} of tables, {wanted.hashes} reads per token")
