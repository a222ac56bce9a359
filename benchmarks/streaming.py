"""Decoding a model larger than memory: `python benchmarks/streaming.py FOLDER --limit 12G`.

Measures, in one process: decoding under the limit (tokens/s, bytes read, peak memory), what the
same reads take with nothing to compute (the disk's own speed for them), and how near the first
comes to the second. `--compare` decodes once more without a limit, in a process of its own, and
checks that every logit has the same bits. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import dsv4
from dsv4.checkpoint.experts import ExpertStore
from dsv4.cli.loading import parse_size
from dsv4.model.transformer import Transformer
from dsv4.ops.cpu import threads as pool

PROMPT = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--limit", default="12G", help="0: none")
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--warm", type=int, default=24, help="tokens before the clock starts")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--no-guess", action="store_true", help="read ahead for hash layers only")
    parser.add_argument("--compare", action="store_true")
    parser.add_argument("--logits", type=Path, help="write the logits of every step here")
    args = parser.parse_args()
    torch.set_num_threads(1)
    pool.use(args.threads)
    limit = parse_size(args.limit) or None
    began = time.perf_counter()
    model = dsv4.load(args.folder, "fast", memory_limit=limit).transformer
    result: dict[str, Any] = {"folder": args.folder.name, "limit_bytes": limit}
    result["load_s"] = round(time.perf_counter() - began, 2)
    if args.no_guess:
        for layer in model.layers[model.config.num_hash_layers :]:
            layer.read_ahead = lambda *_: None
    decode(model, args.warm, args.tokens, result, args.logits)
    if limit is not None:
        source = model.layers[0].ffn.source
        assert isinstance(source, ExpertStore)
        disk(source, model, result)
    if args.compare:
        result["same_bits_without_limit"] = compare(args)
    print(json.dumps(result, indent=2))


@torch.no_grad()
def decode(
    model: Transformer, warm: int, count: int, result: dict[str, Any], out: Path | None
) -> None:
    """Feed random ids one by one; what it took, from after `warm` of them."""
    rng = torch.Generator().manual_seed(0)
    total = PROMPT + warm + count
    ids = torch.randint(0, model.config.vocab_size, (1, total), generator=rng)
    state = model.new_state()
    logits: list[Tensor] = [model(ids[:, :PROMPT], state, last_only=True).logits_BTV]
    source: Any = model.layers[0].ffn.source
    before, began = None, 0.0
    for i in range(PROMPT, total):
        if i == PROMPT + warm:
            before, began = source and source.stats, time.perf_counter()
        logits.append(model(ids[:, i : i + 1], state, last_only=True).logits_BTV)
    seconds = time.perf_counter() - began
    result["tokens_per_s"] = round(count / seconds, 3)
    result["peak_resident_bytes"] = peak()
    if source is not None:
        after = source.stats
        used = after.hits + after.misses - before.hits - before.misses
        cold = used - (after.hits - before.hits) + after.prefetch_used - before.prefetch_used
        size = (after.bytes_read - before.bytes_read) / max(
            1, after.misses - before.misses + after.prefetched - before.prefetched
        )
        result |= {
            "expert_slots": source.capacity,
            "experts_used": used,
            "experts_cold": cold,
            "read_ahead": after.prefetched - before.prefetched,
            "read_ahead_used": after.prefetch_used - before.prefetch_used,
            "expert_bytes": round(size),
            "cold_bytes_per_token": round(cold * size / count),
            "read_bytes_per_token": round((after.bytes_read - before.bytes_read) / count),
            "waited_s_per_token": round((after.seconds_waited - before.seconds_waited) / count, 4),
        }
    if out is not None:
        torch.save(torch.cat(logits, 1), out)


def disk(source: ExpertStore, model: Transformer, result: dict[str, Any]) -> None:
    """Bytes per second of random experts, as many at a time as a layer asks for, and the ratio."""
    rng = random.Random(1)
    config = model.config
    began, before = time.perf_counter(), source.stats.bytes_read
    while time.perf_counter() - began < 10:
        layer = rng.randrange(config.num_hidden_layers)
        experts = rng.sample(range(config.n_routed_experts), config.num_experts_per_tok)
        source.acquire(layer, experts)
        source.release(layer, experts)
    seconds = time.perf_counter() - began
    bandwidth = (source.stats.bytes_read - before) / seconds
    result["disk_bytes_per_s"] = round(bandwidth)
    if result["cold_bytes_per_token"]:
        bound = bandwidth / result["cold_bytes_per_token"]
        result["disk_bound_tokens_per_s"] = round(bound, 3)
        result["share_of_disk_bound"] = round(result["tokens_per_s"] / bound, 3)


def peak() -> int:
    """Peak resident memory of this process in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    return 0


def compare(args: argparse.Namespace) -> bool:
    """Whether a run with and one without a limit give the same bits."""
    found = []
    for limit in (args.limit, "0"):
        out = Path(tempfile.mkdtemp()) / "logits.pt"
        command = [sys.executable, __file__, str(args.folder), "--limit", limit]
        command += ["--logits", str(out), "--warm", "4", "--tokens", "8"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        found.append(torch.load(out, weights_only=True))
        shutil.rmtree(out.parent)
    return torch.equal(*found)


if __name__ == "__main__":
    main()
