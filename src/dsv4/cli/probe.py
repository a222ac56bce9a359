"""`dsv4 verify URL`: what is asked of a server, what it may cost, how far it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dsv4.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from dsv4.config import ModelConfig
    from dsv4.encoding.tokenizer import Tokenizer
    from dsv4.evaluation.conformance.finding import Report
    from dsv4.evaluation.conformance.probes.budget import Budget
    from dsv4.evaluation.conformance.probes.reply import Reply
    from dsv4.evaluation.conformance.probes.service import Messages, Service


@dataclass(frozen=True, slots=True)
class Plan:
    """The options of `dsv4 verify` for a URL, as they were given."""

    url: str
    served: str | None
    key_file: Path | None
    tokenizer: str | None
    only: str
    minutes: float
    max_tokens: int
    speculation_off: str | None
    price: str | None


def probe(plan: Plan, *, dry_run: bool) -> Report | None:
    """The report; None if nothing was to be asked.

    Raises UsageError for options that do not fit, RequestError for a server that is not there.
    """
    from dsv4.cli.console import interruptible, note
    from dsv4.cli.loading import read_key
    from dsv4.evaluation.conformance.probes.budget import Budget
    from dsv4.evaluation.conformance.probes.catalogue import chosen
    from dsv4.evaluation.conformance.probes.run import verify_url
    from dsv4.evaluation.conformance.probes.service import Service, find

    probes = chosen([name.strip() for name in plan.only.split(",") if name.strip()])
    key = read_key(plan.key_file)
    base, model, context = find(plan.url, plan.served, key)
    said = f"{base} ({model}): {len(probes)} probes, at most {plan.minutes:g} minutes and "
    said += f"{plan.max_tokens:,} tokens{_cost(plan, model)}"
    if dry_run:
        print(said)
        return None
    note(said)
    tokenizer, config = _vocabulary(plan.tokenizer, model)
    with interruptible() as stopped:
        budget = Budget(60 * plan.minutes, plan.max_tokens, stopped)
        service = Service(
            base, model, budget, key=key, tokenizer=tokenizer, config=config, context=context
        )
        service.without_speculation = _plain(plan.speculation_off, service, key, budget)
        return verify_url(service, probes, progress=_shown)


def _shown(name: str, done: int, total: int) -> None:
    from dsv4.cli.console import note

    if done < total:
        note(f"{done + 1} of {total}: {name}")


def _cost(plan: Plan, model: str) -> str:
    """What that costs at most, if there is a price for the model."""
    from datetime import UTC, datetime

    from dsv4.evaluation.conformance.probes.budget import ANSWERS
    from dsv4.pricing.file import built_in
    from dsv4.pricing.price import Tokens, money

    prices = built_in()
    if plan.price is None and model not in prices:
        return "; no price is known for it"
    priced = prices.find(plan.price or model)
    price = priced.latest(datetime.now(UTC))
    if price is None:
        return "; no price is known for it"
    answers = plan.max_tokens // ANSWERS
    most = price.highest.cost(Tokens(miss=plan.max_tokens - answers, output=answers))
    return f", {money(most)} at most ({priced.name})"


def _vocabulary(given: str | None, model: str) -> tuple[Tokenizer | None, ModelConfig | None]:
    """The vocabulary and configuration of the folder that is named, or bundled by this name."""
    from dsv4 import config, locate
    from dsv4.encoding.tokenizer import Tokenizer

    if given is None and model not in locate.bundled():
        return None, None
    folder = locate.folder(given or model)
    return Tokenizer.from_folder(folder), config.load(folder)


def _plain(
    given: str | None, service: Service, key: str | None, budget: Budget
) -> Callable[[Messages, int], Reply] | None:
    """How to ask without speculation."""
    import json

    from dsv4.evaluation.conformance.probes.service import Service, find

    if given is None:
        return None
    if given.startswith(("http://", "https://")):
        base, _, _ = find(given, service.model, key)
        other = Service(base, service.model, budget, key=key)
        other.meet()
        return other.ask
    try:
        fields = json.loads(given)
    except ValueError:
        fields = None
    if not isinstance(fields, dict):
        raise UsageError(
            f"--speculation-off {given!r} is no JSON object and no URL",
            "such as '{\"speculative.n_max\": 0}'",
        )
    return lambda messages, answer: service.ask(messages, answer, **fields)
