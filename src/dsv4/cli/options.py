"""Options that several subcommands share, so that they mean the same everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dsv4.locate import DEFAULT

ModelArgument = Annotated[
    str, typer.Argument(help="nano (bundled), a model folder, or a hub id.", metavar="MODEL")
]
OptionalModel = Annotated[
    str, typer.Argument(help="nano (bundled), a model folder, or a hub id.", metavar="MODEL")
]
DEFAULT_MODEL = DEFAULT

NumericsOption = Annotated[
    str,
    typer.Option(
        help="exact (float32), official (the released rounding) or fast (the CPU kernels).",
        metavar="POLICY",
    ),
]
ThreadsOption = Annotated[
    int | None,
    typer.Option(
        help="Threads that compute; one per core unless given (one for a small model).",
        min=1,
        max=1024,
        metavar="N",
    ),
]
MemoryLimit = Annotated[
    str | None,
    typer.Option(
        help="Memory to stay below, such as 12G: experts are read from disk when they are needed.",
        metavar="SIZE",
    ),
]
ServedOption = Annotated[
    str | None, typer.Option(help="URL: the model to ask for.", metavar="NAME")
]
KeyFileOption = Annotated[
    Path | None, typer.Option(help="URL: a file that holds the API key.", metavar="FILE")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]

Temperature = Annotated[
    float | None, typer.Option(help="0 to 2; 0 takes the most likely token.", metavar="T")
]
TopP = Annotated[
    float | None, typer.Option(help="Keep the likeliest tokens up to this probability.")
]
TopK = Annotated[int | None, typer.Option(help="Keep this many likeliest tokens; 0 keeps all.")]
MinP = Annotated[
    float | None, typer.Option(help="Drop tokens less likely than this fraction of the best.")
]
Seed = Annotated[int | None, typer.Option(help="Makes the answer repeatable.", metavar="N")]
MaxTokens = Annotated[int | None, typer.Option(help="Stop after this many tokens.", min=1)]
Effort = Annotated[
    str | None, typer.Option(help="Effort of thinking: none, low, high, max ...", metavar="LEVEL")
]
