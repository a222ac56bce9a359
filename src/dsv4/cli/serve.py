"""`dsv4 serve`: the HTTP server."""

from __future__ import annotations

from typing import Annotated

import typer

from dsv4.cli.options import (
    DEFAULT_MODEL,
    MemoryLimit,
    NumericsOption,
    OptionalModel,
    ThreadsOption,
)


def serve(
    model: OptionalModel = DEFAULT_MODEL,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 takes a free one.", min=0, max=65535)] = 8000,
    numerics: NumericsOption = "fast",
    threads: ThreadsOption = None,
    memory_limit: MemoryLimit = None,
    queue: Annotated[int, typer.Option(help="Requests that may wait; more get 429.", min=1)] = 1024,
) -> None:
    """Serve a model over HTTP with the DeepSeek and OpenAI API.

    POST /v1/chat/completions, GET /v1/models, GET /health. Requests are
    computed together; those that find no place wait in a queue.
    """
    import dsv4
    from dsv4.cli.loading import load
    from dsv4.server.run import run

    engine = dsv4.Engine(load(model, numerics, threads, memory_limit), queue=queue)
    run(engine, host=host, port=port)
