"""`dsv4 score`: how well a model predicts a text."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dsv4.cli.options import JsonOption, MemoryLimit, ModelArgument, NumericsOption, ThreadsOption

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from dsv4.model.transformer import Transformer


def score(
    model: ModelArgument,
    text: Annotated[Path, typer.Option(help="UTF-8 text file; - reads standard input.")],
    numerics: NumericsOption = "exact",
    threads: ThreadsOption = None,
    memory_limit: MemoryLimit = None,
    as_json: JsonOption = False,
) -> None:
    """Measure how well a model predicts a text.

    The text follows a begin-of-sentence token and is one context: every token is predicted
    from all before it. --json adds the log-probability of every token.
    """
    from dsv4.cli.console import progress, write_json
    from dsv4.cli.loading import load
    from dsv4.errors import UsageError

    content = _read(text)
    loaded = load(model, numerics, threads, memory_limit)
    ids = loaded.tokenizer.encode(content)
    if not ids:
        raise UsageError(f"{text} is empty", "give a text of at least one token")
    with progress("score", len(ids)) as done:
        logprobs = token_logprobs(loaded.transformer, [loaded.tokenizer.bos_id, *ids], done)
    total = -math.fsum(logprobs)
    size = len(content.encode())
    result = {
        "model": loaded.name,
        "numerics": loaded.numerics,
        "tokens": len(ids),
        "bytes": size,
        "nll_per_token": total / len(ids),
        "perplexity": math.exp(min(total / len(ids), 700.0)),
        "bits_per_byte": total / math.log(2) / size,
    }
    if as_json:
        tokens = [
            {"id": i, "text": loaded.tokenizer.token(i), "logprob": logprob}
            for i, logprob in zip(ids, logprobs, strict=True)
        ]
        write_json(result | {"token_logprobs": tokens})
        return
    for name, value in result.items():
        print(
            f"{name.replace('_', ' '):14} {value:.4f}"
            if isinstance(value, float)
            else f"{name.replace('_', ' '):14} {value}"
        )


def _read(path: Path) -> str:
    from dsv4.cli.console import read_input
    from dsv4.errors import UsageError

    try:
        return read_input() if str(path) == "-" else path.read_bytes().decode("utf-8")
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}", "give a text file") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8 text", "convert it first") from error


def token_logprobs(
    model: Transformer, ids: Sequence[int], done: Callable[[int], None] = lambda count: None
) -> list[float]:
    """Natural log-probability of `ids[1:]`, each given all before it."""
    import torch

    from dsv4.engine.forward import forward

    result: list[float] = []
    for stop, logits_TV in forward(model, ids[:-1]):
        targets_T = torch.tensor(ids[len(result) + 1 : stop + 1])
        picked = logits_TV.double().log_softmax(-1).gather(1, targets_T[:, None])
        result += picked[:, 0].tolist()
        done(stop)
    return result
