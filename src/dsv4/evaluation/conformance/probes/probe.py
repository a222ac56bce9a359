"""A probe, and what it tells while it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from dsv4.evaluation.conformance.finding import Finding, Skipped
from dsv4.evaluation.conformance.probes.service import Service


@dataclass(frozen=True, slots=True)
class Measured:
    """What was looked at and found, in words: how often, and with which interval."""

    what: str


Told = Finding | Measured | Skipped
Run = Callable[[Service], Iterator[Told]]


@dataclass(frozen=True, slots=True)
class Probe:
    """One thing to find out about a server.

    `about`: what it asks. `catches`: what it finds; both are shown in the documentation. `run`
    yields what it learns as it learns it, so that an interrupted one has told something.
    """

    name: str
    about: str
    catches: str
    run: Run
