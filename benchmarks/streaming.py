"""Decoding a model larger than memory: `python benchmarks/streaming.py FOLDER --limit 12G`.

Measures, in one process and in turn, so that a disk whose speed changes is the same disk for both:
the disk alone (random experts of the same files, read as the cache reads them, with nothing to
compute) and decoding under the limit. Prints one JSON object:

  disk_bytes_per_s        the disk alone, each time
  cold_bytes_per_token    what decoding had to read: experts chosen by a router and not in memory
  read_bytes_per_token    what it did read: that and guesses which came to nothing
  share_of_disk_bound     tokens/s divided by (disk bandwidth / cold bytes per token)
  computing_s_per_token   the same steps with all they need in memory
  share_of_bound          the longer of reading and computing, of the time a token took
  busy_others_rounds      processors' time that other processes took, of all there is, by round
  peak_share_of_limit     the highest resident memory, of the limit

A sequence has experts of its own that it uses often, random weights or not. `--sequences 16`
decodes so many in turn, which use all experts alike: the hard case for a cache.
`--no-guess` reads nothing ahead but what follows from the token ids, to see what guesses cost.
`--compare` decodes once more without a limit, in a process of its own, and checks that every logit
has the same bits.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import dsv4
from dsv4.checkpoint.experts import ExpertStore
from dsv4.checkpoint.read_queue import Reading, pieces
from dsv4.cli.loading import parse_size
from dsv4.model.transformer import Transformer
from dsv4.ops.cpu import threads as pool

PROMPT = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--limit", default="12G", help="0: none")
    parser.add_argument("--tokens", type=int, default=24, help="in a round")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--warm", type=int, default=80, help="tokens before the first round")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--sequences", type=int, default=1, help="decoded in turn")
    parser.add_argument("--no-guess", action="store_true", help="read ahead for hash layers only")
    parser.add_argument("--compare", action="store_true")
    parser.add_argument("--logits", type=Path, help="write the logits of every step here")
    args = parser.parse_args()
    torch.set_num_threads(1)
    threads = pool.use(args.threads)
    limit = parse_size(args.limit) or None
    size = sum(path.stat().st_size for path in args.folder.glob("*.safetensors"))
    result: dict[str, Any] = {
        "folder": args.folder.name,
        "checkpoint_bytes": size,
        "limit_bytes": limit,
        "threads": threads,
    }
    began = time.perf_counter()
    model = dsv4.load(args.folder, "fast", memory_limit=limit).transformer
    result["load_s"] = round(time.perf_counter() - began, 2)
    if args.no_guess:
        stop_guessing(model)
    steps = Steps(model, args.sequences, args.warm + args.rounds * args.tokens)
    steps.decode(args.warm)
    rounds = []
    source: Any = model.layers[0].ffn.source
    disk = Disk(source, model.config.num_experts_per_tok) if source else None
    before = disk.measure() if disk else 0.0
    for _ in range(args.rounds):
        stats = asdict(source.stats) if source else {}
        others = busy_others()
        found: dict[str, float] = {"seconds": steps.decode(args.tokens)}
        found["others"] = busy_others() - others
        if disk:
            after = disk.measure()
            found |= {name: value - stats[name] for name, value in asdict(source.stats).items()}
            found["disk"] = (before + after) / 2
            before = after
        rounds.append(found)
    result |= summary(rounds, args.tokens)
    if args.logits is not None:
        torch.save(torch.cat(steps.logits, 1), args.logits)
    if disk:
        computing = steps.repeat(args.tokens) / args.tokens
        needed = max(computing, result["s_per_token"] * result["share_of_disk_bound"])
        result["computing_s_per_token"] = round(computing, 4)
        result["share_of_bound"] = round(needed / result["s_per_token"], 3)
    result["peak_resident_bytes"] = peak()
    if limit is not None:
        result["peak_share_of_limit"] = round(peak() / limit, 3)
    if args.compare:
        result["same_bits_without_limit"] = compare(args)
    print(json.dumps(result, indent=2))


def stop_guessing(model: Transformer) -> None:
    for layer in model.layers[model.config.num_hash_layers :]:
        layer.read_ahead = lambda *_: None


class Steps:
    """Sequences of random ids, fed one by one, a step of each in turn, after a short prompt."""

    def __init__(self, model: Transformer, sequences: int, count: int) -> None:
        rng = torch.Generator().manual_seed(0)
        shape = (sequences, PROMPT + -(-count // sequences))
        self._model = model
        self._ids = torch.randint(0, model.config.vocab_size, shape, generator=rng)
        self._states = [model.new_state() for _ in range(sequences)]
        self._turn = 0
        self.logits: list[Tensor] = []
        for i in range(sequences):
            self._feed(i, PROMPT)

    def decode(self, count: int) -> float:
        """Seconds for so many steps."""
        began = time.perf_counter()
        for _ in range(count):
            self._feed(self._turn % len(self._states), 1)
            self._turn += 1
        return time.perf_counter() - began

    def repeat(self, count: int) -> float:
        """Seconds for as many steps that find all their experts in memory: always the same one."""
        state = self._states[0]
        stop_guessing(self._model)
        for i in range(count + 4):
            if i == 4:  # by now what it needs is there
                began = time.perf_counter()
            state.rewind(state.length - 1)
            self._feed(0, 1)
        return time.perf_counter() - began

    @torch.no_grad()
    def _feed(self, sequence: int, count: int) -> None:
        state = self._states[sequence]
        ids = self._ids[sequence : sequence + 1, state.length : state.length + count]
        self.logits.append(self._model(ids, state, last_only=True).logits_BTV)


class Disk:
    """Reads random experts that are not in memory, as many at a time as a layer chooses.

    The store's own threads read them, into memory that it lends: which pages a disk writes to
    matters as well.
    """

    def __init__(self, store: ExpertStore, depth: int) -> None:
        self._store, self._depth = store, depth
        self._keys = list(store._spans)
        self._rng = random.Random(1)

    def measure(self, seconds: float = 2.0) -> float:
        """Bytes per second."""
        store = self._store
        ended = threading.Semaphore(0)
        with store._queue.lock:
            slots = store._take(self._depth, [])
            pending = {slot: self._read(slot, ended) for slot in slots}
        began, got = time.perf_counter(), 0
        while pending:
            ended.acquire()
            with store._queue.lock:
                slot = next(i for i, r in pending.items() if not (r.left or r.under_way))
                got += pending.pop(slot).got
                if time.perf_counter() - began < seconds:
                    pending[slot] = self._read(slot, ended)
        spent = time.perf_counter() - began
        with store._queue.lock:
            store._free.extend(slots)
        return got / spent

    def _read(self, slot: int, ended: threading.Semaphore) -> Reading:
        store = self._store
        while (key := self._rng.choice(self._keys)) in store._entries:
            pass
        memory = store._bytes[slot * store._slot_bytes : (slot + 1) * store._slot_bytes]
        reading = Reading(pieces(store._spans[key]), memory, ended.release)
        store._queue.put(reading, urgent=False)
        return reading


def summary(rounds: list[dict[str, float]], tokens: int) -> dict[str, Any]:
    """What the rounds say: sums over all, and the ratio to the disk's bound round by round."""
    total = {name: sum(r[name] for r in rounds) for name in rounds[0]}
    count = tokens * len(rounds)
    processors = os.cpu_count() or 1
    result: dict[str, Any] = {
        "tokens_per_s": round(count / total["seconds"], 3),
        "busy_others_rounds": [round(r["others"] / r["seconds"] / processors, 3) for r in rounds],
    }
    if "disk" not in total:
        return result
    shares = [tokens / r["seconds"] * (r["bytes_cold"] / tokens) / r["disk"] for r in rounds]
    used = total["hits"] + total["misses"]
    return result | {
        "disk_bytes_per_s": [round(r["disk"]) for r in rounds],
        "experts_used": round(used),
        "share_cold": round((total["misses"] + total["prefetch_used"]) / used, 3),
        "cold_bytes_per_token": round(total["bytes_cold"] / count),
        "read_bytes_per_token": round(total["bytes_read"] / count),
        "read_ahead_used": round(total["prefetch_used"] / max(1, total["prefetched"]), 3),
        "waited_s_per_token": round(total["seconds_waited"] / count, 4),
        "s_per_token": round(total["seconds"] / count, 4),
        "share_of_disk_bound_rounds": [round(share, 3) for share in shares],
        "share_of_disk_bound": round(statistics.median(shares), 3),
    }


def busy_others() -> float:
    """Seconds that processors have spent on other processes so far, over all processors."""
    ticks = [int(word) for word in Path("/proc/stat").read_text().split(maxsplit=9)[1:9]]
    idle, waiting, stolen = ticks[3], ticks[4], ticks[7]
    own = resource.getrusage(resource.RUSAGE_SELF)
    busy = sum(ticks) - idle - waiting - stolen
    return busy / os.sysconf("SC_CLK_TCK") - own.ru_utime - own.ru_stime


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
        command += ["--logits", str(out), "--warm", "4", "--rounds", "1", "--tokens", "8"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        found.append(torch.load(out, weights_only=True))
        shutil.rmtree(out.parent)
    return torch.equal(*found)


if __name__ == "__main__":
    main()
