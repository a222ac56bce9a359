"""`dsv4 serve`: the HTTP server."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from dsv4.cli.options import (
    DEFAULT_MODEL,
    MemoryLimit,
    NumericsOption,
    OptionalModel,
    ThreadsOption,
)
from dsv4.errors import UsageError

Mode = Literal["auto", "on", "off"]


def serve(
    model: OptionalModel = DEFAULT_MODEL,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 takes a free one.", min=0, max=65535)] = 8000,
    numerics: NumericsOption = "fast",
    threads: ThreadsOption = None,
    memory_limit: MemoryLimit = None,
    queue: Annotated[int, typer.Option(help="Requests that may wait; more get 429.", min=1)] = 1024,
    running: Annotated[
        int, typer.Option(help="Requests that are computed together.", min=1, max=1024)
    ] = 64,
    kv_memory: Annotated[
        str | None,
        typer.Option(
            help="Memory for conversations, running and kept; a quarter of the machine's unless "
            "given.",
            metavar="SIZE",
        ),
    ] = None,
    kv_folder: Annotated[
        Path | None,
        typer.Option(
            help="Keep conversations in this folder too: they outlive the server.", metavar="DIR"
        ),
    ] = None,
    kv_disk: Annotated[str, typer.Option(help="What the folder may hold.", metavar="SIZE")] = "16G",
    kv_checkpoints: Annotated[
        str,
        typer.Option(
            help="Tokens between places from which a kept conversation can be gone on; zero: none, "
            "what is needed is computed again (docs/engine.md).",
            metavar="TOKENS",
        ),
    ] = "1024",
    speculation: Annotated[
        Mode, typer.Option(help="Guess tokens ahead, where the model can: it changes no answer.")
    ] = "auto",
    per_key: Annotated[
        int | None,
        typer.Option(help="Requests that one key may have under way; more get 429.", min=1),
    ] = None,
    api_key: Annotated[
        list[str] | None,
        typer.Option(
            help="A key that clients have to send; may be given again. Without keys, all may ask.",
            metavar="KEY",
            envvar="DSV4_API_KEYS",
        ),
    ] = None,
    api_key_file: Annotated[
        Path | None,
        typer.Option(help="A file with one key per line.", metavar="FILE"),
    ] = None,
    accounts: Annotated[
        Path | None,
        typer.Option(
            help="A TOML file of keys with budgets and limits (docs/accounts.md).", metavar="FILE"
        ),
    ] = None,
    cors: Annotated[
        list[str] | None,
        typer.Option(
            help="An origin whose web pages may ask, or *; may be given again.", metavar="ORIGIN"
        ),
    ] = None,
    drain_seconds: Annotated[
        float,
        typer.Option(help="What answers under way get when the server is told to stop.", min=0),
    ] = 30,
) -> None:
    """Serve a model over HTTP with the APIs of DeepSeek, OpenAI and Anthropic.

    POST /v1/chat/completions, /v1/completions, /v1/responses, /v1/messages; GET
    /v1/models, /health, /metrics; all of them in docs/server.md. Requests are
    computed together; those that find no place wait in a queue.

    A web page to talk with the model is at /.

    Ctrl-C or SIGTERM refuses new requests and lets answers under way end; a
    second one stops at once.
    """
    from contextlib import ExitStack, closing

    import dsv4
    from dsv4.cli.loading import load, parse_size
    from dsv4.engine.memory import Checkpoints
    from dsv4.server.accounts import Accounts, Keys, read_keys
    from dsv4.server.ledger_file import open_ledger
    from dsv4.server.run import run
    from dsv4.server.settings import Settings

    if accounts is not None and (api_key or api_key_file):
        raise UsageError("keys are given twice", "either --accounts or --api-key, --api-key-file")
    settings = Settings(per_key=per_key, drain_seconds=drain_seconds, origins=tuple(cors or ()))
    with ExitStack() as at_end:
        who: Accounts
        if accounts is None:
            who = Keys(read_keys(api_key or (), api_key_file))
        else:
            who = at_end.enter_context(closing(open_ledger(accounts)))
        engine = dsv4.Engine(
            load(model, numerics, threads, memory_limit),
            queue=queue,
            running=running,
            kv_memory=None if kv_memory is None else parse_size(kv_memory),
            kv_folder=kv_folder,
            kv_disk=parse_size(kv_disk),
            checkpoints=Checkpoints.parse(kv_checkpoints),
            speculation=speculation,
        )
        run(engine, host=host, port=port, accounts=who, settings=settings)
