"""Where the time of a forward pass goes, beside what the machine allows.

The native operations keep a clock per stage; what is left of a pass is Python and dispatch.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

from dsv4.errors import UsageError
from dsv4.evaluation import roofline
from dsv4.evaluation.machine import Ceilings
from dsv4.evaluation.roofline import Cost, Costs
from dsv4.evaluation.speed import Done, Feed, ignore
from dsv4.model.transformer import Transformer
from dsv4.numerics.policy import FAST
from dsv4.ops.cpu import hint, kernels, reason

REST = "python"
"""The row of what no stage accounts for: Python, torch and dispatch."""


@dataclass(frozen=True, slots=True)
class Pass:
    """One measured pass: seconds in all and by stage, calls by stage."""

    seconds: float
    stages: dict[str, float]
    calls: dict[str, int]


@dataclass(frozen=True, slots=True)
class Row:
    """A stage of a pass: what it must do and what it took."""

    stage: str
    calls: float
    bytes: float
    flops: float
    floor: float
    seconds: float

    @property
    def gap(self) -> float:
        """Seconds above the floor."""
        return self.seconds - self.floor


@dataclass(frozen=True, slots=True)
class Profile:
    """A pass by stage; `kind` and `size` as in `speed.Timing`, `tokens` of one pass."""

    kind: str
    size: int
    tokens: int
    rows: tuple[Row, ...]
    ceilings: Ceilings

    def against(self, ceilings: Ceilings) -> Profile:
        """The same pass beside another reading of the machine's ceilings."""
        rows = [replace(row, floor=Cost(row.bytes, row.flops).floor(ceilings)) for row in self.rows]
        return replace(self, rows=tuple(rows), ceilings=ceilings)

    @property
    def seconds(self) -> float:
        return sum(row.seconds for row in self.rows)

    @property
    def bytes(self) -> float:
        return sum(row.bytes for row in self.rows)

    @property
    def flops(self) -> float:
        return sum(row.flops for row in self.rows)

    @property
    def floor(self) -> float:
        """The sum of the stages' floors: they run one after another."""
        return sum(row.floor for row in self.rows)

    @property
    def of_roofline(self) -> float:
        """Floor over measured time, 1 at best."""
        return self.floor / self.seconds

    @property
    def of_bandwidth(self) -> float:
        """Time that reading alone takes, over measured time."""
        return self.bytes / self.ceilings.read_bytes / self.seconds

    @property
    def python(self) -> float:
        """Share of the time outside the native stages."""
        return self.rows[-1].seconds / self.seconds


def require_clock(model: Transformer) -> None:
    """Raise UsageError unless this model runs in native operations, which keep the clock."""
    if kernels is None:
        raise UsageError(f"no native kernels: {reason()}", hint())
    if model.numerics is not FAST:
        raise UsageError("only numerics fast runs in native kernels", "--numerics fast")


def profile_decode(
    model: Transformer, depth: int, tokens: int, ceilings: Ceilings, done: Done = ignore
) -> Profile:
    """One decoding step at `depth`, from `tokens` of them.

    The slowest and fastest quarter of the steps are left out; the mean of the others keeps the
    sum of the stages equal to the whole. Raises UsageError without native kernels.
    """
    require_clock(model)
    feed = Feed(model, depth + tokens, done)
    feed.fill(depth)
    passes = sorted((_timed_step(feed) for _ in range(tokens)), key=lambda item: item.seconds)
    quarter = len(passes) // 4
    cost = roofline.forward_cost(model, depth + tokens // 2)
    return _profile("decode", depth, 1, cost, passes[quarter : len(passes) - quarter], ceilings)


def profile_prefill(
    model: Transformer, length: int, repeat: int, ceilings: Ceilings, done: Done = ignore
) -> Profile:
    """A prompt of `length` ids in chunks: the median of `repeat`, else like `profile_decode`."""
    require_clock(model)
    feed = Feed(model, length, done)
    passes = []
    for _ in range(repeat):
        feed.restart()
        passes.append(_timed_fill(feed, length))
    passes.sort(key=lambda item: item.seconds)
    cost = roofline.prompt_cost(model, length)
    middle = len(passes) // 2
    return _profile("prefill", length, length, cost, passes[middle : middle + 1], ceilings)


def _timed_step(feed: Feed) -> Pass:
    kernels.reset_stage_times()
    began = time.perf_counter()
    feed.step()
    return _read_clock(time.perf_counter() - began)


def _timed_fill(feed: Feed, length: int) -> Pass:
    kernels.reset_stage_times()
    began = time.perf_counter()
    feed.fill(length)
    return _read_clock(time.perf_counter() - began)


def _read_clock(seconds: float) -> Pass:
    times = kernels.stage_times()
    return Pass(
        seconds,
        {stage: nanoseconds / 1e9 for stage, nanoseconds, _ in times},
        {stage: calls for stage, _, calls in times},
    )


def _profile(
    kind: str, size: int, tokens: int, cost: Costs, passes: list[Pass], ceilings: Ceilings
) -> Profile:
    count = len(passes)
    known = dict(cost)
    rows = []
    for stage in passes[0].stages:
        part = known.pop(stage, Cost())
        seconds = sum(item.stages[stage] for item in passes) / count
        calls = sum(item.calls[stage] for item in passes) / count
        if not calls and part == Cost():
            continue  # this model has no such part
        floor = part.floor(ceilings)
        rows.append(Row(stage, calls, part.bytes, part.flops, floor, seconds))
    left = roofline.total(known)
    rest = sum(item.seconds for item in passes) / count - sum(row.seconds for row in rows)
    rows.append(Row(REST, 0, left.bytes, left.flops, left.floor(ceilings), rest))
    return Profile(kind, size, tokens, tuple(rows), ceilings)
