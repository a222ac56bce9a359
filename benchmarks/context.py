"""Speed along a growing context: `python benchmarks/context.py FOLDER --tokens 131072`.

Random ids are really read, in pieces of 512. On the way the speed of prefill is noted every 4,096
tokens, and at 1,024 and every power of four from there (and at the end) 24 tokens are decoded one
by one and taken back. Writes OUT.jsonl and OUT.png; tells how the ends compare with 1K and 2K.

`--repeat-entries` reads 4,096 tokens only and fills the state, up to the last 4,096, with copies of
their entries: the work of a token is the same, its logits mean nothing.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch

import dsv4
from dsv4.model.state import State
from dsv4.model.transformer import Transformer
from dsv4.ops.cpu import threads as pool

CHUNK = 512
NOTE = 4096
STEPS = 24


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder")
    parser.add_argument("--tokens", type=int, default=131072)
    parser.add_argument("--out", type=Path, default=Path("out/context"))
    parser.add_argument("--threads", type=int)
    parser.add_argument("--repeat-entries", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    threads = pool.use(args.threads)
    model = dsv4.load(args.folder, "fast").transformer
    args.out.parent.mkdir(parents=True, exist_ok=True)
    rows = measure(model, args.tokens, args.out.with_suffix(".jsonl"), repeat=args.repeat_entries)
    plot(rows, args.out.with_suffix(".png"), threads)
    prefill = {row["tokens"]: row["prefill"] for row in rows if "prefill" in row}
    decode = {row["tokens"]: row["decode"] for row in rows if "decode" in row}
    print(f"prefill: {prefill[args.tokens] / prefill[2048]:.2f} of the speed at 2K")
    print(f"decode: {decode[args.tokens] / decode[1024]:.2f} of the speed at 1K")


@torch.no_grad()
def measure(model: Transformer, count: int, log: Path, *, repeat: bool) -> list[dict[str, Any]]:
    """Speeds in tokens/s along `count` tokens, also written to `log` as they come."""
    rng = torch.Generator().manual_seed(0)
    ids = torch.randint(0, model.config.vocab_size, (1, count), generator=rng)
    state = model.new_state()
    state.reserve(count + STEPS)
    model(ids[:, :CHUNK], state, last_only=True)  # the first piece also builds what is kept
    state.rewind(0)
    depths = {1024 * 4**i for i in range(12)} | {count}
    rows: list[dict[str, Any]] = []
    began, since = time.perf_counter(), 0
    with log.open("w") as file:
        while state.length < count:
            model(ids[:, state.length : state.length + CHUNK], state, last_only=True)
            at = state.length
            if at % NOTE and at not in (2048, count, *depths):
                continue
            row = {"tokens": at, "prefill": (at - since) / (time.perf_counter() - began)}
            if at in depths:
                row["decode"] = decode(model, state, ids)
            rows.append(row | {"state_bytes": state.nbytes})
            file.write(json.dumps(rows[-1]) + "\n")
            file.flush()
            print(json.dumps(rows[-1]), flush=True)
            if repeat and at == NOTE:
                fill(state, count - NOTE)
            began, since = time.perf_counter(), state.length
    return rows


def fill(state: State, length: int) -> None:
    """Let the state hold `length` tokens, its entries repeating those it has."""
    state.reserve(length)
    for layer in state.layers:
        for _, part in layer.logs():
            have = part.read_stored(state.length // layer.ratio)
            want = torch.arange(length // layer.ratio) % have.shape[1]
            part.write_stored(0, have[:, want])
        for _, ring in layer.rings():
            ring.reached(length)
    state.length = length


def decode(model: Transformer, state: State, ids: torch.Tensor) -> float:
    """Tokens/s of single steps after `state`, which is put back: the median step."""
    length, times = state.length, []
    for i in range(STEPS):
        began = time.perf_counter()
        model(ids[:, i : i + 1], state, last_only=True)
        times.append(time.perf_counter() - began)
    state.rewind(length)
    return 1 / statistics.median(times)


def plot(rows: list[dict[str, Any]], out: Path, threads: int) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4), layout="constrained")
    for axes, key in ((left, "prefill"), (right, "decode")):
        points = [(row["tokens"] / 1024, row[key]) for row in rows if key in row]
        axes.plot(*zip(*points, strict=True), marker=".")
        axes.set(
            xlabel="context (Ki tokens)", ylabel=f"{key}, tokens/s", xscale="log", ylim=(0, None)
        )
        axes.grid(alpha=0.3)
    figure.suptitle(f"{threads} threads")
    figure.savefig(out, dpi=120)


if __name__ == "__main__":
    main()
