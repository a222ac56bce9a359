"""One run over a million tokens: time and memory along the way, and a needle found at the end.

    python benchmarks/million.py [MODEL] [--tokens N] [--work DIR] [--threads N]

Reads the source of Python's standard library as text. At a tenth of the way a passage of random
tokens, the needle, is put in; at the end its first half is repeated. Then, at full length, it
reports for every CSA layer how the indexer ranks the needle's entries among all, whether the
kernels choose what a plain sort of all scores chooses, how far the kernels' logits are from the
op-by-op form, and how the logits change when the needle's entries are erased.

Writes DIR/million.jsonl and DIR/million.png. The state is kept in DIR every 65,536 tokens, and a
run that was stopped goes on from there.
"""

from __future__ import annotations

import argparse
import json
import sysconfig
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import dsv4
from dsv4 import ops
from dsv4.config import CSA
from dsv4.model.cost import cache
from dsv4.model.state import State
from dsv4.model.transformer import Transformer
from dsv4.ops.cpu import threads as pool

CHUNK = 512
NEEDLE = 64  # tokens
NEAR = 16  # entries around a place that count as found there
KEEP = 65536
NOTE = 8192


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", nargs="?", default="nano")
    parser.add_argument("--tokens", type=int, default=1 << 20)
    parser.add_argument("--work", type=Path, default=Path("out/million"))
    parser.add_argument("--threads", type=int)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    pool.use(args.threads)
    model = dsv4.load(args.model, "fast")
    ids, needle = text(model, args.tokens)
    log = args.work / "million.jsonl"
    state = read(model.transformer, ids, args.work, log)
    report = probe(model.transformer, state, ids, needle)
    with log.open("a") as file:
        file.write(json.dumps({"probe": report}) + "\n")
    print(json.dumps(report, indent=2))
    plot(log, args.work / "million.png", model.transformer)


def text(model: dsv4.Model, count: int) -> tuple[Tensor, int]:
    """(`count` token ids, position of the needle); the last half needle repeats its first half."""
    rng = torch.Generator().manual_seed(0)
    needle = torch.randint(300, model.config.vocab_size, (NEEDLE,), generator=rng)
    found: list[int] = []
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).rglob("*.py")):
        if len(found) >= count:
            break
        found += model.tokenizer.encode(path.read_text(encoding="utf-8", errors="replace"))
    if len(found) < count:
        raise SystemExit(f"the standard library has only {len(found)} tokens")
    ids = torch.tensor(found[:count])
    place = count // 10
    ids[place : place + NEEDLE] = needle
    ids[-NEEDLE // 2 :] = needle[: NEEDLE // 2]
    return ids, place


def read(model: Transformer, ids: Tensor, work: Path, log: Path) -> State:
    """Feed all but the last token, noting time and memory; goes on where it was stopped."""
    kept = work / "state.safetensors"
    state = model.new_state()
    if kept.exists():
        state.load_tensors(load_file(kept))
        print(f"going on from {state.length} tokens")
    else:
        log.unlink(missing_ok=True)
    state.reserve(len(ids))
    began, since = time.perf_counter(), state.length
    while state.length < len(ids) - 1:
        piece = ids[state.length : min(state.length + CHUNK, len(ids) - 1)]
        with torch.no_grad():
            model(piece[None], state, last_only=True)
        if state.length % NOTE == 0 or state.length == len(ids) - 1:
            seconds = time.perf_counter() - began
            row = {
                "tokens": state.length,
                "tokens_per_s": round((state.length - since) / seconds, 1),
                "state_bytes": state.nbytes,
                "resident_bytes": resident(),
            }
            with log.open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(json.dumps(row), flush=True)
            if state.length % KEEP == 0:
                save_file(state.to_tensors(), kept)
            began, since = time.perf_counter(), state.length
    return state


def resident() -> int:
    """Anonymous memory of this process in bytes: without the mapped weights."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024
    return 0


@torch.no_grad()
def probe(model: Transformer, state: State, ids: Tensor, needle: int) -> dict[str, Any]:
    """What one step at the end finds of the needle."""
    step = ids[-1:][None]
    length = state.length
    # The needle's half that was repeated, as entries of four tokens.
    first, last = needle // CSA, (needle + NEEDLE // 2) // CSA
    seen: list[tuple[Tensor, Tensor]] = []
    select = ops.select._bound

    def watch(q: Tensor, weights: Tensor, keys: Tensor, **rest: Any) -> Tensor:
        dots = torch.einsum("bthi,bni->bthn", q.float(), keys.float()).relu()
        seen.append(
            (torch.einsum("bthn,bth->n", dots, weights.float()), select(q, weights, keys, **rest))
        )
        return seen[-1][1]

    began = time.perf_counter()
    fast = model(step, state).logits_BTV
    seconds = time.perf_counter() - began
    state.rewind(length)
    ops.select.implementations["watched"] = watch
    ops.select.bind("watched")
    try:
        with ops.unfused():
            plain = model(step, state).logits_BTV
    finally:
        ops.select.bind("reference")
    state.rewind(length)
    layers = []
    for scores, chosen in seen:
        picks = chosen[0, 0]
        own = scores[first:last]
        layers.append(
            {
                "entries": len(scores),
                "best_rank_of_needle": int((scores > own.max()).sum()) + 1,
                "needle_entries_chosen": int(((picks >= first) & (picks < last)).sum()),
                "of": last - first,
                "chosen": len(picks),
                "chosen_before_half": int(((picks >= 0) & (picks < len(scores) // 2)).sum()),
            }
        )
    for layer in state.layers:
        if layer.ratio == CSA:
            assert layer.compressor is not None and layer.indexer is not None
            for _, log in layer.logs():
                zeros = log.read_stored(last)[:, first:last].zero_()
                log.write_stored(first, zeros)
    erased = model(step, state).logits_BTV
    return {
        "tokens": length + 1,
        "needle_at": needle,
        "decode_step_s": round(seconds, 4),
        "csa_layers": layers,
        "kernels_to_op_by_op": distance(fast, plain),
        "same_argmax": bool((fast.argmax() == plain.argmax()).all()),
        "logit_change_when_needle_is_erased": distance(erased, fast),
    }


def distance(found: Tensor, want: Tensor) -> float:
    """Relative L2."""
    return float((found - want).norm() / want.norm())


def plot(log: Path, out: Path, model: Transformer) -> None:
    """Speed and memory against the context."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = [json.loads(line) for line in log.read_text().splitlines()]
    rows = [row for row in rows if "tokens" in row]
    at = [row["tokens"] / 1024 for row in rows]
    figure, (speed, memory) = pyplot.subplots(1, 2, figsize=(11, 4), layout="constrained")
    speed.plot(at, [1000 / row["tokens_per_s"] for row in rows], marker=".")
    speed.set(xlabel="context (Ki tokens)", ylabel="ms per token, prefill", ylim=(0, None))
    formula = cache(model.config)
    memory.plot(at, [row["resident_bytes"] / 2**20 for row in rows], label="process, anonymous")
    memory.plot(at, [row["state_bytes"] / 2**20 for row in rows], label="decoding state")
    memory.plot(
        at,
        [formula.at(row["tokens"]) / 2**20 for row in rows],
        "--",
        label=f"formula: {formula.per_token:.1f} bytes per token",
    )
    memory.set(xlabel="context (Ki tokens)", ylabel="MiB", ylim=(0, None))
    memory.legend()
    for axes in (speed, memory):
        axes.grid(alpha=0.3)
    figure.suptitle(f"one pass over {rows[-1]['tokens'] + 1:,} tokens")
    figure.savefig(out, dpi=120)


if __name__ == "__main__":
    main()
