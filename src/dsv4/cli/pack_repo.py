"""`dsv4 pack-repo`: a codebase as one prompt."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dsv4.cli.options import DEFAULT_MODEL, JsonOption

if TYPE_CHECKING:
    from dsv4.packing.pack import Packed
    from dsv4.pricing.price import Prices


MOST_LISTED = 20
"""Files of one kind that are named, unless all are asked for."""


def pack_repo(
    folder: Annotated[Path, typer.Argument(help="The codebase.", metavar="DIR")],
    output: Annotated[
        Path | None,
        typer.Option(help="Write it there, not to standard output.", metavar="FILE"),
    ] = None,
    question: Annotated[
        str | None, typer.Option(help="What to ask about it: makes a complete prompt.")
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option(help="Take files, in order, as long as they fit.", min=1)
    ] = None,
    model: Annotated[
        str, typer.Option(help="The model whose vocabulary counts.", metavar="MODEL")
    ] = DEFAULT_MODEL,
    ignore: Annotated[
        list[str] | None,
        typer.Option(
            help="One more pattern as in a .gitignore; '!dist/' takes in what is ignored. May be "
            "given again.",
            metavar="PATTERN",
        ),
    ] = None,
    allow_secret: Annotated[
        list[str] | None,
        typer.Option(
            help="Take these files although they look like secrets. May be given again.",
            metavar="PATTERN",
        ),
    ] = None,
    max_file_size: Annotated[
        str, typer.Option(help="Pass over larger files.", metavar="SIZE")
    ] = "256K",
    everything: Annotated[
        bool, typer.Option("--list", help="List all that is left out, also what is ignored.")
    ] = False,
    prices: Annotated[
        Path | None,
        typer.Option(help="More prices: a TOML or JSON file (docs/accounts.md).", metavar="FILE"),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Write a whole codebase as one prompt.

    A tree first, then the README, what says how it is built, and folder by folder the rest. Left
    out, and listed with the reason: what .gitignore files and a list of usual suspects name,
    binaries, large files, links, and what looks like a secret (private keys, .env, tokens).

    What it costs to send is shown before anything is sent:

    dsv4 pack-repo . --question "Where are requests queued?" --output prompt.txt

    dsv4 generate nano - --chat < prompt.txt

    dsv4 chat --context-file prompt.txt takes it as what the conversation is about.
    """
    from dsv4.cli.console import note, write_json
    from dsv4.cli.loading import parse_size
    from dsv4.errors import UsageError
    from dsv4.packing.pack import pack_repo as pack
    from dsv4.packing.pattern import exactly
    from dsv4.pricing.file import built_in, read_prices

    table = built_in() if prices is None else built_in().joined(read_prices(prices))
    patterns = list(ignore or ())
    if output is not None and output.resolve().is_relative_to(folder.resolve()):
        # What an earlier run wrote is no part of the codebase.
        patterns.append(exactly(output.resolve().relative_to(folder.resolve()).as_posix()))
    packed = pack(
        folder,
        question=question,
        model=model,
        max_tokens=max_tokens,
        ignore=patterns,
        allow_secrets=allow_secret or (),
        max_file_bytes=parse_size(max_file_size),
    )
    for line in _passed_over(packed, everything):
        note(line)
    note(_about(packed, model, table))
    if output is not None:
        try:
            output.write_text(packed.text, encoding="utf-8")
        except OSError as error:
            raise UsageError(f"cannot write {output}: {error.strerror}") from error
    if as_json:
        write_json(packed.json() | ({} if output is not None else {"text": packed.text}))
    elif output is None:
        print(packed.text, end="")


def _passed_over(packed: Packed, everything: bool) -> Iterator[str]:
    """What is left out and why: every secret, and of other kinds the first ones."""
    counts: Counter[str] = Counter()
    for one in packed.skipped:
        counts[one.kind] += 1
        few = one.kind != "ignored" and counts[one.kind] <= MOST_LISTED
        if everything or few or one.kind == "secret":
            yield f"{one.kind}: {one.path} ({one.why})"
    more = sum(
        max(count - MOST_LISTED, 0)
        for kind, count in counts.items()
        if kind not in ("ignored", "secret")
    )
    if more and not everything:
        yield f"and {more:,} more: --list names them"


def _about(packed: Packed, model: str, table: Prices) -> str:
    """Size, cost, and whether it fits."""
    from datetime import UTC, datetime

    from dsv4 import config, locate
    from dsv4.pricing.compare import Work, compare
    from dsv4.pricing.price import Tokens, money

    kinds = Counter(one.kind for one in packed.skipped)
    over = ", ".join(f"{count:,} {kind}" for kind, count in sorted(kinds.items())) or "nothing"
    work = Work(Tokens(miss=packed.tokens), datetime.now(UTC))
    costs = ", ".join(f"{money(one.usd)} ({one.model.name})" for one in compare(table, [work]))
    text = f"{len(packed.files):,} files, {packed.tokens:,} tokens of {model}; passed over: {over}"
    if costs:
        text += f"\nas a prompt: {costs}"
    context = config.load(locate.folder(model)).max_position_embeddings
    if packed.tokens > context:
        text += f"\nthat is more than the {context:,} tokens of {model}'s context: see --max-tokens"
    return text
