"""All probes, in the order in which they run: the cheap ones first."""

from __future__ import annotations

from collections.abc import Sequence

from dsv4.errors import UsageError
from dsv4.evaluation.conformance.probes import (
    cached,
    cancellation,
    decay,
    encoding,
    load,
    markup,
    refusals,
    repeats,
    speculation,
    streaming,
    sweep,
    thinking,
    tools,
    usage,
)
from dsv4.evaluation.conformance.probes.probe import Probe

PROBES: tuple[Probe, ...] = (
    refusals.PROBE,
    usage.PROBE,
    encoding.PROBE,
    repeats.PROBE,
    load.PROBE,
    streaming.PROBE,
    thinking.PROBE,
    tools.PROBE,
    cached.PROBE,
    speculation.PROBE,
    cancellation.PROBE,
    sweep.PROBE,
    decay.PROBE,
    markup.PROBE,
)


def chosen(names: Sequence[str]) -> tuple[Probe, ...]:
    """Those of these names, all if there are none. Raises UsageError for a name that there is
    not."""
    known = [probe.name for probe in PROBES]
    for name in names:
        if name not in known:
            raise UsageError(f"there is no probe {name!r}", "one of " + ", ".join(known))
    return tuple(probe for probe in PROBES if not names or probe.name in names)
