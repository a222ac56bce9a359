"""All answers of all probes, looked through for what no answer may hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from dsv4.evaluation.conformance.finding import Finding
from dsv4.evaluation.conformance.probes.chance import interval
from dsv4.evaluation.conformance.probes.probe import Measured, Probe, Told
from dsv4.evaluation.conformance.probes.service import Service
from dsv4.evaluation.intervals import wilson


def run(service: Service) -> Iterator[Told]:
    leaked = [one for one in service.seen if one.leaked]
    share = wilson(len(service.seen) - len(leaked), len(service.seen))
    yield Measured(
        f"{interval(share)} of {len(service.seen)} answers are free of markup; "
        f"{sum(one.loops for one in service.seen)} end in a loop"
    )
    if leaked:
        probes = Counter(one.probe for one in leaked)
        where = ", ".join(f"{name} {count}" for name, count in probes.most_common())
        yield Finding(
            f"{len(leaked)} of {len(service.seen)} answers hold control tokens or markup "
            f"({where}), for example {leaked[0].leaked!r}",
            "markup",
            resembles="vllm#54686, llama.cpp#26694: markup and special tokens leak into answers",
            hint="tokens of the template are text to the parser: are they marked as such?",
        )


PROBE = Probe(
    "markup",
    "every answer that any probe got",
    "control tokens and markup of tool calls in what a user reads",
    run,
)
