"""Does each part of V4 help at a scale that anybody can repeat? The arms, the runs, the table.

    python recipes/experiments.py prepare runs/parts --corpora CORPORA
    python recipes/experiments.py run runs/parts --device cuda --jobs 14 --minutes 4
    python recipes/experiments.py table runs/parts                  # Markdown on stdout
    python recipes/experiments.py plot runs/parts parts.png

`prepare` makes all that runs read, some megabytes that can be copied to another machine. `run`
resumes: runs that have a result are not made again. Without `--steps` it first measures the
speed of every arm while the machine is as busy as it will be, then takes as many steps as fit
into `--minutes`.

Every arm is trained from scratch on the same batches for the same number of tokens, once per seed
(seeds change weights and order). Differences are taken seed by seed against the arm's partner. In
the table one star is for a 95 % interval that excludes 0, two for one that holds among all of its
column (Holm, 5 %).
"""

from __future__ import annotations

import argparse
import heapq
import json
import os
import signal
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from experiments_arms import ARMS
from experiments_data import LISTS, load, prepare
from experiments_plot import plot
from experiments_pool import Outcome, Pool
from experiments_run import Task, dumped, run
from experiments_table import read_results, table

from dsv4.errors import Dsv4Error

TRIAL_STEPS = 16
SHARE = 0.85
"""Of the time that is left, what is planned for: later steps may be slower than the trial's."""

GRACE = 1.15
"""Runs under way are ended at this multiple of the minutes."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says; returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("prepare", "run", "table", "plot"):
        command = commands.add_parser(name)
        command.add_argument("out", type=Path)
        if name == "prepare":
            command.add_argument("--corpora", type=Path, required=True)
            command.add_argument("--lists", type=int, default=LISTS)
        elif name == "run":
            _add_run_options(command)
        elif name == "plot":
            command.add_argument("image", type=Path)
    args = parser.parse_args(arguments)
    try:
        if args.command == "prepare":
            prepare(args.out, args.corpora, args.lists)
        elif args.command == "table":
            print(table(read_results(args.out)))
        elif args.command == "plot":
            plot(args.out, args.image)
        else:
            if args.steps is None and args.minutes is None and not read_results(args.out):
                parser.error("run needs --steps or --minutes")
            return run_all(args)
    except Dsv4Error as error:
        print(f"error: {error}", file=sys.stderr)
        if error.hint:
            print(f"hint: {error.hint}", file=sys.stderr)
        return error.exit_code
    return 0


def _add_run_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--device", default="cpu")
    command.add_argument("--jobs", type=int, default=2, help="runs beside each other")
    command.add_argument("--steps", type=int, help="default: as many as fit into --minutes")
    command.add_argument("--batch-tokens", type=int, default=8192)
    command.add_argument("--seeds", type=int, default=3)
    command.add_argument("--arms", nargs="+", choices=tuple(ARMS), default=tuple(ARMS))
    command.add_argument("--minutes", type=float, help="begin no run after this time")


def run_all(args: argparse.Namespace) -> int:
    """Make the runs that have no result yet; returns 0 if all of them have one then."""
    began = time.monotonic()
    until = kill = float("inf")
    if args.minutes is not None:
        until, kill = began + 60 * args.minutes, began + 60 * args.minutes * GRACE
    load(args.out)
    results = read_results(args.out)
    known = {(r["arm"], r["seed"]) for r in results}
    # One seed of every arm before the next: tables of unfinished experiments are fair.
    order = [(arm, seed) for seed in range(args.seeds) for arm in args.arms]
    order = [pair for pair in order if pair not in known]
    if not order:
        return 0
    jobs = min(args.jobs, len(order))
    steps = args.steps or (_settings(args.out)["steps"] if results else None)
    if steps is not None:
        _keep_settings(args.out, steps, args.batch_tokens)
    os.environ["OMP_NUM_THREADS"] = "1"
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that processes are ended too
    with tempfile.TemporaryDirectory() as scratch, Pool(run, jobs) as pool:

        def task(arm: str, seed: int, steps: int) -> Task:
            return Task(
                arm, seed, steps, args.batch_tokens, args.device, jobs, args.out, Path(scratch)
            )

        if steps is None:
            names = [arm for arm, _ in order]
            tried = list(dict.fromkeys(names))
            trials = [
                task(tried[i % len(tried)], i, TRIAL_STEPS) for i in range(max(jobs, len(tried)))
            ]
            speeds = measure(pool, trials, until, kill)
            left = until - time.monotonic()
            steps = fitting_steps([speeds[arm] for arm in names], jobs, left)
            print(f"{time.monotonic() - began:.0f} s: {steps} steps fit", flush=True)
            _keep_settings(args.out, steps, args.batch_tokens)
        failed, done = 0, 0
        for outcome in pool.outcomes([task(*pair, steps) for pair in order], until, kill):
            done += not outcome.error
            failed += bool(outcome.error)
            _keep(args.out, outcome, f"{done + failed}/{len(order)}", time.monotonic() - began)
    left = len(order) - done
    if left:
        print(f"{left} runs are missing ({failed} failed); run again to make them", flush=True)
    return int(left > 0)


def measure(
    pool: Pool[Task, dict[str, Any]], trials: Sequence[Task], until: float, kill: float
) -> dict[str, float]:
    """Seconds per step of every arm that is tried, with all processes at work.

    An arm whose trials fail is taken to be as fast as the others. Raises Dsv4Error if all do.
    """
    seconds = defaultdict(list)
    for outcome in pool.outcomes(trials, until, kill):
        if outcome.result is None:
            print(f"trial of {outcome.task.arm} FAILED\n{outcome.error}", file=sys.stderr)
        else:
            seconds[outcome.task.arm].append(outcome.result["seconds_per_step"])
    if not seconds:
        raise Dsv4Error("every trial failed")
    speeds = {arm: mean(values) for arm, values in seconds.items()}
    for arm, value in speeds.items():
        print(f"{arm}: {value:.3f} s per step", flush=True)
    return {task.arm: speeds.get(task.arm, mean(speeds.values())) for task in trials}


def fitting_steps(seconds: Sequence[float], jobs: int, left: float) -> int:
    """Steps per run so that runs with these seconds per step, done in order by `jobs` processes,
    take their share of the seconds that are left. Raises Dsv4Error if hardly any fit."""
    ends = [0.0] * jobs
    for one in seconds:
        heapq.heappush(ends, heapq.heappop(ends) + one)
    steps = int(SHARE * left / max(ends))
    if steps < TRIAL_STEPS:
        raise Dsv4Error(f"{steps} steps per run fit into the time", "raise --minutes")
    return steps


def _keep(out: Path, outcome: Outcome[Task, dict[str, Any]], progress: str, seconds: float) -> None:
    """Append a result, or say what went wrong."""
    name = f"{progress} {outcome.task.arm} seed {outcome.task.seed}"
    if outcome.result is None:
        print(f"{name}: FAILED after {seconds:.0f} s\n{outcome.error}", file=sys.stderr, flush=True)
        with (out / "failures.txt").open("a", encoding="utf-8") as file:
            file.write(f"{name}: {outcome.error}\n")
        return
    result = dumped(outcome.result, out)
    with (out / "results.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(result) + "\n")
    print(
        f"{name}: loss {result['loss']:.3f}, needles {result['near']:.2f} near, "
        f"{result['far']:.2f} far, {result['seconds']:.0f} s; {seconds:.0f} s in all",
        flush=True,
    )


def _settings(out: Path) -> dict[str, int]:
    """What the results in a folder have in common; empty before the first run."""
    path = out / "settings.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _keep_settings(out: Path, steps: int, batch_tokens: int) -> None:
    """Write them down. Raises Dsv4Error if the results there were made with others."""
    known, settings = _settings(out), {"steps": steps, "batch_tokens": batch_tokens}
    if read_results(out) and known != settings:
        raise Dsv4Error(f"{out} has results with {known}, not {settings}", "take another folder")
    (out / "settings.json").write_text(json.dumps(settings), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
