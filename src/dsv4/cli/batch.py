"""`dsv4 batch`: a file of requests in, a file of results out."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dsv4.cli.money import LimitCost, MorePrices, limit_of, price_table
from dsv4.cli.options import (
    DEFAULT_MODEL,
    JsonOption,
    KeyFileOption,
    MemoryLimit,
    NumericsOption,
    ThreadsOption,
)
from dsv4.errors import RequestError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from dsv4.batch.charges import Count, Tariff
    from dsv4.batch.plan import Plan
    from dsv4.batch.results import Results
    from dsv4.batch.target import Target
    from dsv4.encoding.tokenizer import Tokenizer

NOTE_SECONDS = 60
"""How often a run that nobody watches on a terminal says how far it is."""


def batch(
    requests: Annotated[Path, typer.Argument(help="The requests, JSONL.", metavar="IN")],
    results: Annotated[Path, typer.Argument(help="The results, JSONL.", metavar="OUT")],
    model: Annotated[
        str, typer.Option(help="nano (bundled), a model folder, or a hub id.", metavar="MODEL")
    ] = DEFAULT_MODEL,
    url: Annotated[
        str | None,
        typer.Option(help="Ask this API instead, such as http://127.0.0.1:8000/v1.", metavar="URL"),
    ] = None,
    key: Annotated[
        str | None, typer.Option(help="URL: the API key. Other users of this machine may see it.")
    ] = None,
    key_file: KeyFileOption = None,
    together: Annotated[
        int | None,
        typer.Option(help="Requests at a time; 32 unless given, 8 with a URL.", min=1, max=1024),
    ] = None,
    retries: Annotated[
        int, typer.Option(help="URL: times a request is sent again.", min=0, max=100)
    ] = 5,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Ask again for what failed in earlier runs.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check IN and OUT, estimate, and send nothing.")
    ] = False,
    limit_cost: LimitCost = None,
    price: Annotated[
        str | None,
        typer.Option(
            help="The model as whose price tokens are charged; with a URL the one that a request "
            "names, unless given.",
            metavar="NAME",
        ),
    ] = None,
    prices: MorePrices = None,
    tokenizer: Annotated[
        str | None,
        typer.Option(
            help="URL: estimate with this model's vocabulary, not with 4 characters a token.",
            metavar="MODEL",
        ),
    ] = None,
    numerics: NumericsOption = "fast",
    threads: ThreadsOption = None,
    memory_limit: MemoryLimit = None,
    as_json: JsonOption = False,
) -> None:
    """Answer the requests of a file, in OpenAI's batch format.

    A line of IN is {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions",
    "body": {...}}, one of OUT {"id", "custom_id", "response": {"status_code", "request_id",
    "body"}, "error"}, in the order in which answers come. Bodies are those of dsv4 serve; several
    are computed together.

    The same command goes on where it was interrupted: what has a response is not asked again.
    Ctrl-C waits for the answers under way; a second one stops at once. A request that fails is a
    result too; the exit code is then 8.

    What it will take is shown before it starts: docs/batch.md.
    """
    from contextlib import ExitStack

    from dsv4.batch import request as batch_requests
    from dsv4.batch import results as batch_results
    from dsv4.batch.plan import Plan
    from dsv4.batch.report import estimate, estimated, summary, told
    from dsv4.batch.run import TOGETHER, TOGETHER_HERE, run
    from dsv4.cli.console import interruptible, note, status, write_json

    _check(url, key, key_file, tokenizer)
    budget = limit_of(limit_cost)
    if results.resolve() == requests.resolve():
        raise UsageError(f"{requests} would be overwritten", "give another OUT")
    with status(f"reading {requests}"):
        asked = batch_requests.read(requests, batch_requests.ENDPOINTS if url is None else None)
        found = batch_results.read(results, asked, retry_failed=retry_failed)
    tariff = _tariff(url, price, prices)
    with ExitStack() as at_end:
        target: Target
        if url is None:
            from dsv4.batch.local import LocalServer
            from dsv4.chat.engine import Engine
            from dsv4.cli.loading import load

            loaded = load(model, numerics, threads, memory_limit)
            count, otherwise = _counting(loaded.tokenizer), loaded.defaults.max_tokens
            server = LocalServer(Engine(loaded))
            at_end.callback(server.close)
            target = server
        else:
            from dsv4.cli.loading import read_key
            from dsv4.evaluation.client import Client

            count, otherwise = _counting(_vocabulary(tokenizer)), None
            target = Client(url, key or read_key(key_file), retries=retries)
        with status("estimating"):
            plan = Plan(asked, count, tariff, otherwise)
        if budget is not None:
            plan.check_bounded()
        before = estimate(plan, found.known, counted=url is None or tokenizer is not None)
        if dry_run:
            write_json(before) if as_json else print(estimated(before))
            return
        note(estimated(before))
        kept = at_end.enter_context(
            batch_results.Results(results, asked, retry_failed=retry_failed)
        )
        with interruptible() as stopped, _watched(plan, kept) as shown:
            why = run(
                plan,
                kept,
                target,
                together=together or (TOGETHER_HERE if url is None else TOGETHER),
                budget=budget,
                stopped=stopped,
                progress=shown,
            )
        after = summary(plan, kept, why)
    write_json(after) if as_json else print(told(after))
    _end(after)


def _check(url: str | None, key: str | None, key_file: Path | None, tokenizer: str | None) -> None:
    if url is None and (key or key_file or tokenizer):
        raise UsageError("--key, --key-file and --tokenizer are for a URL", "add --url")
    if key and key_file:
        raise UsageError("the key is given twice", "either --key or --key-file")


def _tariff(url: str | None, price: str | None, more: Path | None) -> Tariff:
    """What is charged: nothing on this machine, unless a price is named."""
    from dsv4.batch.charges import Tariff
    from dsv4.pricing.price import Prices

    if url is None and price is None:
        return Tariff(Prices({}), None)
    return Tariff(price_table(more), price)


def _vocabulary(model: str | None) -> Tokenizer | None:
    from dsv4 import locate
    from dsv4.encoding.tokenizer import Tokenizer

    return None if model is None else Tokenizer.from_folder(locate.folder(model))


def _counting(tokenizer: Tokenizer | None) -> Count:
    """How to count the tokens of a text; None: by its characters."""
    from dsv4.evaluation.client import CHARACTERS

    if tokenizer is None:
        return lambda text: -(-len(text) // CHARACTERS)
    encode = tokenizer.encode
    return lambda text: len(encode(text))


@contextmanager
def _watched(plan: Plan, results: Results) -> Iterator[Callable[[str], None]]:
    """Shows how far a run is: a bar on a terminal, else a line now and then."""
    import sys
    import time

    from dsv4.batch.report import Far
    from dsv4.cli.console import note, progress

    far = Far(plan, results.known)
    with progress("batch", len(plan.requests)) as done:
        noted = time.monotonic()

        def show(name: str) -> None:
            nonlocal noted
            far.add(name)
            done(len(results.known), label=far.used)
            if not sys.stderr.isatty() and time.monotonic() - noted > NOTE_SECONDS:
                noted = time.monotonic()
                note(str(far))

        done(len(results.known))
        yield show


def _end(summary: Mapping[str, Any]) -> None:
    """Raises RequestError for a batch of which something failed or is left."""
    if summary["why"] == "interrupted":
        raise KeyboardInterrupt
    if summary["left"]:
        raise RequestError(
            f"{summary['left']} of {summary['requests']} requests have no result: {summary['why']}",
            "run it again with a higher --limit-cost",
        )
    if summary["failed"]:
        raise RequestError(
            f"{summary['failed']} of {summary['requests']} requests failed; "
            f"{summary['results']} says why",
            "--retry-failed asks for them again",
        )
