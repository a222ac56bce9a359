"""`dsv4 cost`: what tokens cost on hosted APIs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from dsv4.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from datetime import datetime

    from dsv4.pricing.compare import Cost, Work
    from dsv4.pricing.price import Prices, Tokens

YEAR = {"day": (("day", 1), ("month", 30), ("year", 365)), "month": (("month", 1), ("year", 12))}
"""Unit of `--per` -> the spans shown, as multiples of it."""

Per = Literal["day", "month"]


def cost(
    hit: Annotated[
        str, typer.Option(help="Prompt tokens found in the prefix cache.", metavar="TOKENS")
    ] = "0",
    miss: Annotated[str, typer.Option(help="Other prompt tokens.", metavar="TOKENS")] = "0",
    output: Annotated[
        str, typer.Option(help="Answer tokens, reasoning included.", metavar="TOKENS")
    ] = "0",
    requests: Annotated[
        Path | None,
        typer.Option(
            help="Count the usage in this JSONL file (- reads standard input).", metavar="FILE"
        ),
    ] = None,
    at: Annotated[
        str | None,
        typer.Option(
            help="Prices of a date, or of a time such as 2026-08-20T02:00Z.", metavar="TIME"
        ),
    ] = None,
    per: Annotated[
        Per | None, typer.Option(help="Requests: one line per day or month. Else: see below.")
    ] = None,
    model: Annotated[
        list[str] | None, typer.Option(help="Only this model; may be repeated.", metavar="NAME")
    ] = None,
    prices: Annotated[
        Path | None,
        typer.Option(help="More prices: a TOML or JSON file (docs/accounts.md).", metavar="FILE"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show what tokens cost on hosted APIs.

    TOKENS may be written 1500, 20K, 100M or 1.5B. The prices of DeepSeek-V4 come with the
    package, by the time they were charged; --prices adds those of others. Without --at they are
    today's; a date means its last hour (off-peak), and the column "at peak" says what the dear
    hours cost.

    A line of --requests is a usage object or a whole answer of an API; one with a time
    (created, created_at or time) is charged as of then, unless --at is given.

    With --per and no --requests, the tokens are those of one day (month); longer spans are shown
    beside it (a month has 30 days).

    dsv4 cost --output 100M --at 2026-04-24
    """
    from dsv4.cli.console import write_json
    from dsv4.pricing.compare import Work, compare
    from dsv4.pricing.file import built_in, read_prices

    table = built_in() if prices is None else built_in().joined(read_prices(prices))
    if model:
        table = _only(table, model)
    tokens = _given(hit, miss, output)
    when, explicit = _instant(at), at is not None
    if requests is not None:
        if any((tokens.hit, tokens.miss, tokens.output)):
            raise UsageError(
                "tokens are given twice", "either --requests or --hit, --miss, --output"
            )
        work = list(_read(requests, when, explicit))
    else:
        work = [Work(tokens, when)]
    total = _sum(work)
    costs = compare(table, work)
    if not costs:
        raise UsageError(
            f"no model has a price at {work[0].when:%Y-%m-%d %H:%M} UTC", "choose a later --at"
        )
    groups = _groups(work, per) if requests is not None and per else {}
    spans = YEAR[per] if requests is None and per else ()
    if as_json:
        write_json(
            {
                "tokens": _counts(total),
                "requests": len(work) if requests is not None else None,
                "at": when.isoformat() if explicit or requests is None else None,
                "costs": [_plain(one) for one in costs],
                "spans": {name: {c.model.name: str(c.usd * n) for c in costs} for name, n in spans},
                "periods": [
                    {
                        "period": name,
                        "requests": len(part),
                        "tokens": _counts(_sum(part)),
                        "costs": {c.model.name: str(c.usd) for c in compare(table, part)},
                    }
                    for name, part in groups.items()
                ],
            }
        )
        return
    own_times = requests is not None and not explicit
    _show(total, costs, spans, None if own_times else when, len(work) if requests else None)
    if groups:
        _show_groups({name: (_sum(p), compare(table, p)) for name, p in groups.items()}, costs, per)


def _only(table: Prices, names: list[str]) -> Prices:
    from dsv4.pricing.price import Prices

    found = [table.find(name) for name in names]
    return Prices({model.name: model for model in found})


def _given(hit: str, miss: str, output: str) -> Tokens:
    from dsv4.pricing.price import Tokens

    return Tokens(_count("--hit", hit), _count("--miss", miss), _count("--output", output))


def _count(option: str, text: str) -> int:
    """Tokens as a person writes them."""
    from decimal import Decimal, InvalidOperation

    scale = {"k": 10**3, "m": 10**6, "b": 10**9}
    written = text.strip().lower().replace("_", "").replace(",", "")
    factor = scale.get(written[-1:], 1)
    try:
        value = Decimal(written[:-1] if factor > 1 else written) * factor
    except InvalidOperation:
        value = Decimal(-1)
    if not value.is_finite() or not 0 <= value < 10**18 or value != int(value):
        raise UsageError(f"{option} {text!r} is no number of tokens", "such as 1500, 20K or 100M")
    return int(value)


def _instant(at: str | None) -> datetime:
    from datetime import UTC, date, datetime, time

    if at is None:
        return datetime.now(UTC)
    try:
        if len(at) == 10:
            return datetime.combine(date.fromisoformat(at), time(23, 59, 59), UTC)
        when = datetime.fromisoformat(at)
    except ValueError as error:
        raise UsageError(
            f"--at {at!r} is no time", "such as 2026-08-20 or 2026-08-20T02:00Z"
        ) from error
    return when.replace(tzinfo=when.tzinfo or UTC).astimezone(UTC)


def _read(path: Path, when: datetime, explicit: bool) -> Iterator[Work]:
    """The usage in a JSONL file. Raises UsageError, which names the line."""
    import json

    from dsv4.cli.console import read_input
    from dsv4.pricing.compare import Work
    from dsv4.pricing.usage import time_of, tokens_of

    try:
        text = read_input() if str(path) == "-" else path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read {path}: {error}") from error
    lines = [(n, line) for n, line in enumerate(text.splitlines(), 1) if line.strip()]
    if not lines:
        raise UsageError(f"{path} holds no requests", "one JSON object a line")
    for number, line in lines:
        try:
            entry = json.loads(line)
            usage = entry.get("usage", entry) if isinstance(entry, dict) else None
            if not isinstance(usage, dict):
                raise UsageError("no JSON object with usage")
            stamp = None if explicit else time_of(entry)
            yield Work(tokens_of(usage), stamp or when)
        except (ValueError, RecursionError) as error:
            raise UsageError(f"{path}, line {number} is not JSON: {error}") from error
        except UsageError as error:
            raise UsageError(f"{path}, line {number}: {error}", error.hint) from error


def _sum(work: Iterable[Work]) -> Tokens:
    from dsv4.pricing.price import Tokens

    return sum((one.tokens for one in work), Tokens())


def _groups(work: list[Work], per: Per) -> dict[str, list[Work]]:
    """The work of every day or month, in order of time."""
    form = "%Y-%m-%d" if per == "day" else "%Y-%m"
    groups: dict[str, list[Work]] = {}
    for one in sorted(work, key=lambda one: one.when):
        groups.setdefault(one.when.strftime(form), []).append(one)
    return groups


def _counts(tokens: Tokens) -> dict[str, int]:
    return {"hit": tokens.hit, "miss": tokens.miss, "output": tokens.output}


def _plain(one: Cost) -> dict[str, Any]:
    price = one.price
    return {
        "model": one.model.name,
        "vendor": one.model.vendor,
        "since": price.since.isoformat() if price.since else None,
        "note": price.note,
        "source": price.source,
        "hit": str(price.rate.hit),
        "miss": str(price.rate.miss),
        "output": str(price.rate.output),
        "cost": str(one.usd),
        "cost_at_peak": str(one.peak),
    }


def _show(
    total: Tokens,
    costs: list[Cost],
    spans: Iterable[tuple[str, int]],
    when: datetime | None,
    requests: int | None,
) -> None:
    from rich.markup import escape

    from dsv4.cli.console import output, table
    from dsv4.pricing.price import money

    out = output()
    counted = "" if requests is None else f"{requests:,} requests: "
    out.print(
        f"{counted}{total.hit:,} cached and {total.miss:,} other prompt tokens, "
        f"{total.output:,} answer tokens; "
        + ("prices of their times" if when is None else f"prices of {when:%Y-%m-%d %H:%M} UTC")
        + "\n"
    )
    dear = any(one.peak != one.usd for one in costs)
    spans = list(spans)
    columns = ["model", "vendor", "since"]
    columns += ["hit", "miss", "output"] if when is not None else []
    columns += [f"per {name}" for name, _ in spans] or ["cost"]
    columns += [f"{columns[-1]} at peak" if spans else "at peak"] if dear else []
    rows = table("USD; prices per 1M tokens" if when is not None else "USD", *columns, left=3)
    for one in sorted(costs, key=lambda one: one.usd):
        price = one.price
        cells = [escape(one.model.name), escape(one.model.vendor)]
        cells.append(f"{price.since:%Y-%m-%d}" if price.since else "")
        if when is not None:
            rate = price.at(when)
            cells += [str(rate.hit), str(rate.miss), str(rate.output)]
        cells += [money(one.usd * n) for _, n in spans] or [money(one.usd)]
        cells += [money(one.peak * (spans[-1][1] if spans else 1))] if dear else []
        rows.add_row(*cells)
    out.print(rows)


def _show_groups(
    groups: dict[str, tuple[Tokens, list[Cost]]], costs: list[Cost], per: Per | None
) -> None:
    from rich.markup import escape

    from dsv4.cli.console import output, table
    from dsv4.pricing.price import money

    names = [one.model.name for one in costs]
    rows = table("", str(per), "cached", "other", "answer", *map(escape, names))
    for name, (tokens, parts) in groups.items():
        found = {one.model.name: money(one.usd) for one in parts}
        counts = (f"{count:,}" for count in (tokens.hit, tokens.miss, tokens.output))
        rows.add_row(name, *counts, *(found.get(model, "") for model in names))
    out = output()
    out.print("")
    out.print(rows)
