"""`dsv4 logits`: teacher-forced logits of given tokens, as a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dsv4.cli.options import MemoryLimit, ModelArgument, NumericsOption, ThreadsOption

if TYPE_CHECKING:
    from collections.abc import Iterable


def logits(
    model: ModelArgument,
    tokens: Annotated[
        Path, typer.Option(help="JSON list, ids separated by spaces, or safetensors `tokens`.")
    ],
    out: Annotated[
        Path, typer.Option(help="Safetensors file to write: `logits` [T, V] float32, `tokens` [T].")
    ],
    numerics: NumericsOption = "exact",
    threads: ThreadsOption = None,
    memory_limit: MemoryLimit = None,
    decode: Annotated[
        int, typer.Option(help="Compute the last N positions by single-token steps.", min=0)
    ] = 0,
) -> None:
    """Write the logits of given tokens to a safetensors file.

    Row t holds the model's prediction for the token after token t. Another machine's or model's
    `dsv4 verify --against` reads the file.
    """
    import torch

    import dsv4
    from dsv4.checkpoint.layout import TensorSpec
    from dsv4.checkpoint.writer import write_tensors
    from dsv4.cli.console import note, progress
    from dsv4.cli.loading import load
    from dsv4.cli.tokens import read_tokens
    from dsv4.engine.forward import forward
    from dsv4.errors import UsageError

    out = _writable(out)
    ids = read_tokens(tokens)
    if decode > len(ids):
        raise UsageError(f"--decode {decode} exceeds the {len(ids)} tokens", "lower it")
    loaded = load(model, numerics, threads, memory_limit)
    pieces = forward(loaded.transformer, ids, decode=decode)
    spec = TensorSpec("logits", (len(ids), loaded.config.vocab_size), torch.float32)
    tokens_T = torch.tensor(ids, dtype=torch.int32)
    specs = [spec, TensorSpec("tokens", (len(ids),), torch.int32)]
    metadata = {
        "model": loaded.name,
        "numerics": loaded.numerics,
        "decode": str(decode),
        "dsv4": dsv4.__version__,
    }
    # The file takes its name when it is whole; until then nothing stands at `out`.
    partial = out.with_name(f".{out.name}.partial")
    partial.unlink(missing_ok=True)
    try:
        with progress("logits", len(ids)) as done:
            rows = (logits_TV for _, logits_TV in pieces)
            written = 0

            def values(one: TensorSpec) -> Iterable[torch.Tensor]:
                return rows if one is spec else [tokens_T]

            for size in write_tensors(partial, specs, values, metadata):
                written += size
                done(written // (4 * spec.shape[1]))
        partial.replace(out)
    except OSError as error:
        raise UsageError(f"cannot write {out}: {error.strerror}", "choose another --out") from error
    finally:
        partial.unlink(missing_ok=True)
    note(f"{out}: logits {list(spec.shape)} float32, numerics {loaded.numerics}")


def _writable(out: Path) -> Path:
    """Where the file goes: a link's target. UsageError for what is there and no plain file."""
    from dsv4.errors import UsageError

    try:
        target = out.resolve()
        refused = target.exists() and not target.is_file()
    except (OSError, RuntimeError) as error:  # a loop of links is a RuntimeError
        raise UsageError(f"cannot write {out}: {error}", "choose another --out") from error
    if refused:
        raise UsageError(f"{out} is no regular file", "choose another --out")
    return target
