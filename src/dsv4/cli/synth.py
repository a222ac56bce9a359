"""`dsv4 synth`: a random checkpoint of any configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def synth(
    out: Annotated[Path, typer.Argument(help="Folder to write.", metavar="OUT")],
    preset: Annotated[
        str,
        typer.Option(help="flash, pro, flash-base, pro-base, bench, nano, tiny, or a config.json."),
    ],
    layers: Annotated[int | None, typer.Option(help="Only the first N layers.", min=1)] = None,
    seed: Annotated[
        int, typer.Option(help="The same seed writes the same files.", min=0, max=(1 << 63) - 1)
    ] = 0,
    overwrite: Annotated[bool, typer.Option(help="Replace a model that is there.")] = False,
) -> None:
    """Write a random checkpoint of any configuration in the released layout.

    Tensors are streamed to disk; memory does not grow with the size of the model. The weights
    are noise: for measuring and testing, not for text.
    """
    from dsv4 import checkpoint, config, presets
    from dsv4.cli.console import note, progress, size
    from dsv4.errors import UsageError

    own = preset not in presets.PRESETS and Path(preset).exists()
    chosen = config.load(preset) if own else presets.preset(preset)
    if layers is not None:
        if layers > chosen.num_hidden_layers:
            raise UsageError(
                f"{preset} has {chosen.num_hidden_layers} layers, not {layers}", "lower --layers"
            )
        chosen = checkpoint.first_layers(chosen, layers)
    total = 0
    with progress("write") as done:

        def report(written: int, whole: int) -> None:
            nonlocal total
            total = whole
            done(written, whole)

        checkpoint.synth(chosen, out, seed, overwrite=overwrite, progress=report)
    note(f"{out}: {chosen.num_hidden_layers} layers of {preset}, {size(total)}")
