"""How far one numerics policy is from another, on the same ids.

T: tokens, V: vocabulary.
"""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from dsv4.chat.model import load
from dsv4.engine.forward import forward
from dsv4.evaluation.machine import use_threads
from dsv4.model.transformer import Transformer
from dsv4.numerics.policy import by_name
from dsv4.ops.cpu import kernels

BOUND = 2.0
"""How many times the distance of `official` from `exact` that of `fast` may be."""
CHUNK = 37
"""Ids per pass of the chunked run: no multiple of any block."""
POLICIES = ("exact", "official", "fast")


@dataclass(frozen=True, slots=True)
class Distance:
    """What `logits` of one policy differ by from those of `reference`, over the same positions.

    `relative`: L2 norm of the difference over that of the reference. `largest`: largest absolute
    difference of a logit. `agreement`: share of positions with the same most likely token.
    `divergence`: mean KL(reference || logits) in nats.
    """

    relative: float
    largest: float
    agreement: float
    divergence: float


@dataclass(frozen=True, slots=True)
class Pair:
    """The distance of policy `of` from policy `to`, over the positions computed by `how`."""

    of: str
    to: str
    how: str
    distance: Distance


@dataclass(frozen=True, slots=True)
class Consistency:
    """Whether two ways of feeding the same ids under `fast` give the same logits."""

    ways: str
    equal: bool
    largest: float


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that a check measured; `failures` says in words what is out of bounds."""

    tokens: int
    decoded: int
    pairs: tuple[Pair, ...]
    consistency: tuple[Consistency, ...]
    failures: tuple[str, ...]


def measure(logits_TV: Tensor, reference_TV: Tensor) -> Distance:
    """The distance of `logits_TV` from `reference_TV`."""
    a, b = logits_TV.double(), reference_TV.double()
    p, q = b.log_softmax(-1), a.log_softmax(-1)
    return Distance(
        relative=float((a - b).norm() / b.norm()),
        largest=float((a - b).abs().max()),
        agreement=float((a.argmax(-1) == b.argmax(-1)).double().mean()),
        divergence=float((p.exp() * (p - q)).sum(-1).mean()),
    )


def check(model: str | Path, ids: Sequence[int], decode: int, threads: int) -> Report:
    """Compare `fast` with `exact` and `official`: all of `ids` at once, the last `decode` singly.

    The models are loaded one after another. Raises what `load` and `forward` raise.
    """
    results: dict[str, dict[str, Tensor]] = {}
    consistency: tuple[Consistency, ...] = ()
    for name in POLICIES:
        use_threads(threads, by_name(name))
        transformer = load(model, name).transformer
        ways = {"prefill": _logits(transformer, ids), "decode": _logits(transformer, ids, decode)}
        if name == "fast":
            consistency = _ways(ways, _logits(transformer, ids, chunk=CHUNK))
        ways["decode"] = ways["decode"][len(ids) - decode :]
        results[name] = ways
        del transformer
        gc.collect()  # a model's modules refer to each other
    pairs = tuple(
        Pair(of, to, how, measure(results[of][how], results[to][how]))
        for of, to in (("fast", "exact"), ("official", "exact"), ("fast", "official"))
        for how in ("prefill", "decode")
        if how == "prefill" or decode
    )
    return Report(len(ids), decode, pairs, consistency, _failures(pairs, consistency))


def _logits(
    model: Transformer, ids: Sequence[int], decode: int = 0, chunk: int | None = None
) -> Tensor:
    pieces = forward(model, ids, chunk=chunk or len(ids), decode=decode)
    return torch.cat([logits_TV for _, logits_TV in pieces])


def _ways(ways: dict[str, Tensor], chunked_TV: Tensor) -> tuple[Consistency, ...]:
    whole_TV = ways["prefill"]
    others = {"prefill = chunks": chunked_TV, "prefill = decode": ways["decode"]}
    return tuple(
        Consistency(name, torch.equal(whole_TV, other_TV), _largest(whole_TV, other_TV))
        for name, other_TV in others.items()
    )


def _largest(a_TV: Tensor, b_TV: Tensor) -> float:
    return float((a_TV - b_TV).abs().max())


def _failures(pairs: Sequence[Pair], consistency: Sequence[Consistency]) -> tuple[str, ...]:
    """What exceeds its bound: `fast` more than BOUND times as far from `exact` as `official`,
    or, where native kernels run, other bits from another way of feeding."""
    from_exact = {
        (pair.of, pair.how): pair.distance.relative for pair in pairs if pair.to == "exact"
    }
    failures = []
    for (of, how), value in from_exact.items():
        allowed = BOUND * from_exact["official", how]
        if of == "fast" and not value <= allowed:
            failures.append(
                f"{how}: fast is {value:.3g} from exact, more than {allowed:.3g} "
                f"({BOUND:g} times the distance of official)"
            )
    if kernels is not None:
        failures += [f"{row.ways} does not hold to the bit" for row in consistency if not row.equal]
    return tuple(failures)
