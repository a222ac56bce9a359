"""What the cache of routed experts is built on: eviction policies, and ways to read a disk.

    python benchmarks/expert_cache.py policies [--text FILE...] [--tokens N] [--out FOLDER]
    python benchmarks/expert_cache.py disk [--folder FOLDER] [--gib 4] [--out FOLDER]

`policies` records which experts the bundled model picks for prose, code and chat, and replays that
token by token, layer by layer, through caches of 10 to 90 % of all experts. It prints the share of
requests that were hits, and writes policies.json and policies.png.

`disk` writes a file of random bytes, drops it from the page cache and reads pieces of the size of a
Flash expert (12.75 MiB) at random places: GB/s, and processor seconds per GB.

| policy   | evicts                                                                           |
|----------|----------------------------------------------------------------------------------|
| lru      | the least recently used                                                          |
| lfu      | the least often used since it came                                               |
| fade-N   | the smallest count of all uses so far, halved every N tokens                     |
| 2q       | first what was used once, in order of arrival, then the least recently used      |
| random   | any                                                                              |
| optimum  | what is used again latest (Belady): knows the future, a bound for the others     |
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import random
import resource
import statistics
import tempfile
import time
from collections import OrderedDict, defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from math import inf
from pathlib import Path

import numpy as np
import torch

import dsv4
from dsv4.chat.model import Model
from dsv4.chat.request import Request
from dsv4.checkpoint.expert_ranking import Ranking
from dsv4.checkpoint.expert_reads import large_pages
from dsv4.engine.generate import generate
from dsv4.engine.request import Generation, Token
from dsv4.engine.sampler import Sampling

ROOT = Path(__file__).parents[1]
PROSE = ("README.md", "CONTRIBUTING.md", "LOG.md", "CHANGELOG.md", "docs/*.md", "models/*/*.md")
CODE = ("src/dsv4/*/*.py",)
CHAT = (
    "Tell me a story about a fox.",
    "What is the sun?",
    "Why do birds sing? Please explain it to a child.",
    "Write a poem about rain.",
    "What should I cook tonight?",
    "How do I make a new friend at school?",
)
SHARES = range(10, 100, 10)
PIECE = 13056 << 10

Key = tuple[int, int]
Trace = list[tuple[Key, ...]]
"""One entry per token and layer: the experts it asks for."""


class Policy:
    """Which resident expert goes; a step is one layer of one token."""

    def __init__(self) -> None:
        self.rank: dict[Key, float] = {}

    def use(self, key: Key, step: int) -> None:
        raise NotImplementedError

    def came(self, key: Key) -> None:
        """`key` was just read."""

    def victim(self, resident: set[Key], kept: Sequence[Key]) -> Key:
        return min((key for key in resident if key not in kept), key=self.rank.__getitem__)


class Lru(Policy):
    def use(self, key: Key, step: int) -> None:
        self.rank[key] = step


class Lfu(Policy):
    def use(self, key: Key, step: int) -> None:
        self.rank[key] += 1

    def came(self, key: Key) -> None:
        self.rank[key] = 0


class Fade(Policy):
    """What the package does."""

    def __init__(self, half_life: int, layers: int) -> None:
        super().__init__()
        self.ranking = Ranking(half_life * layers)

    def use(self, key: Key, step: int) -> None:
        self.ranking.now = step
        self.ranking.use([key])

    def victim(self, resident: set[Key], kept: Sequence[Key]) -> Key:
        return min((key for key in resident if key not in kept), key=self.ranking.__getitem__)


class TwoQueues(Policy):
    """2Q: newcomers in a queue of a quarter of the cache, used again they become regulars.

    Those that leave the queue are remembered, half a cache of them: if one comes again, it is a
    regular at once.
    """

    def __init__(self, capacity: int) -> None:
        super().__init__()
        self.quarter, self.half = max(1, capacity // 4), max(1, capacity // 2)
        self.new: OrderedDict[Key, None] = OrderedDict()
        self.regular: OrderedDict[Key, None] = OrderedDict()
        self.gone: OrderedDict[Key, None] = OrderedDict()

    def use(self, key: Key, step: int) -> None:
        if key in self.regular:
            self.regular.move_to_end(key)

    def came(self, key: Key) -> None:
        if self.gone.pop(key, 0) is None:
            self.regular[key] = None
        else:
            self.new[key] = None

    def victim(self, resident: set[Key], kept: Sequence[Key]) -> Key:
        queues = [self.new, self.regular]
        if len(self.new) <= self.quarter:
            queues.reverse()
        queue, key = next((q, key) for q in queues for key in q if key not in kept)
        del queue[key]
        if queue is self.new:
            self.gone[key] = None
            if len(self.gone) > self.half:
                self.gone.popitem(last=False)
        return key


class Random(Policy):
    def __init__(self) -> None:
        super().__init__()
        self.random = random.Random(0)

    def use(self, key: Key, step: int) -> None:
        pass

    def victim(self, resident: set[Key], kept: Sequence[Key]) -> Key:
        return self.random.choice(sorted(key for key in resident if key not in kept))


class Optimum(Policy):
    def __init__(self, trace: Trace) -> None:
        super().__init__()
        self.uses: dict[Key, list[int]] = defaultdict(list)
        for step in range(len(trace) - 1, -1, -1):
            for key in trace[step]:
                self.uses[key].append(step)

    def use(self, key: Key, step: int) -> None:
        self.uses[key].pop()
        self.rank[key] = -self.uses[key][-1] if self.uses[key] else -inf


def policies(capacity: int, trace: Trace, layers: int) -> dict[str, Policy]:
    fading = {f"fade-{n}": Fade(n, layers) for n in (16, 64, 256, 1024)}
    return {
        "lru": Lru(),
        "2q": TwoQueues(capacity),
        "lfu": Lfu(),
        **fading,
        "random": Random(),
        "optimum": Optimum(trace),
    }


def hits(trace: Trace, capacity: int, policy: Policy) -> int:
    """Requests that a cache of `capacity` experts, empty at first, has in memory."""
    resident: set[Key] = set()
    found = 0
    for step, keys in enumerate(trace):
        for key in keys:
            if key in resident:
                found += 1
            else:
                if len(resident) == capacity:
                    resident.remove(policy.victim(resident, keys))
                resident.add(key)
                policy.came(key)
            policy.use(key, step)
    return found


@torch.no_grad()
def record(model: Model, ids: Sequence[int]) -> list[list[list[int]]]:
    """Experts of each token of `ids` and each layer. [T][L][K]"""
    state, tokens = model.transformer.new_state(), []
    for start in range(0, len(ids), 512):
        piece = torch.tensor([ids[start : start + 512]])
        routing = model.transformer(piece, state, last_only=True).routing
        tokens += torch.stack([r.experts_NK for r in routing], 1).tolist()
    return tokens


def answer(model: Model, engine: dsv4.Engine, question: str) -> list[int]:
    """A question as the model sees it, and what it answers."""
    request = Request([{"role": "user", "content": question}], (), "none", Sampling(seed=1), 128)
    ids = [*engine.prepare(request).ids]
    stop = frozenset({model.tokenizer.eos_id})
    generation = Generation(tuple(ids), request.max_tokens, stop, request.sampling)
    events = generate(model.transformer, generation)
    return ids + [event.id for event in events if isinstance(event, Token)]


def documents(model: Model, given: Sequence[Path], tokens: int) -> dict[str, list[list[int]]]:
    """Kind -> documents as token ids, `tokens` of each kind (chat: what there is)."""
    engine = dsv4.Engine(model)
    kinds = {"chat": [answer(model, engine, question) for question in CHAT]}
    for kind, patterns in (("prose", PROSE), ("code", CODE)):
        paths = [path for pattern in patterns for path in sorted(ROOT.glob(pattern))]
        random.Random(0).shuffle(paths)
        kinds[kind] = encoded(model, paths, tokens)
    kinds["given"] = encoded(model, given, tokens)
    return {kind: found for kind, found in kinds.items() if found}


def encoded(model: Model, paths: Iterable[Path], tokens: int) -> list[list[int]]:
    """The first 512 ids of each file, `tokens` in all."""
    found: list[list[int]] = []
    for path in paths:
        left = tokens - sum(map(len, found))
        ids = model.tokenizer.encode(path.read_text(encoding="utf-8"))
        found.append(ids[: min(left, 512)])
    return [ids for ids in found if ids]


def traces(recorded: dict[str, list[list[list[int]]]], hashed: int) -> dict[str, list[Trace]]:
    """Name -> traces, each with a cache of its own.

    `all` is everything in turn, in one cache; `learned` leaves the hash-routed layers out (they
    are few in a large model); `by layer` has a cache of equal size for each layer, of at least
    one token's experts (so that the smallest are larger than they should be).
    """

    def trace(tokens: Iterable[list[list[int]]], layers: Iterable[int]) -> Trace:
        own = [*layers]
        return [tuple((i, e) for e in token[i]) for token in tokens for i in own]

    everything = [token for tokens in recorded.values() for token in tokens]
    layers = range(len(everything[0]))
    return {
        "all": [trace(everything, layers)],
        "learned": [trace(everything, layers[hashed:])],
        "by layer": [trace(everything, [i]) for i in layers],
        **{kind: [trace(tokens, layers)] for kind, tokens in recorded.items()},
    }


def rates(parts: list[Trace], experts: int) -> dict[str, list[float]]:
    """Policy -> share of hits for each size of SHARES."""
    found: dict[str, list[float]] = defaultdict(list)
    requests = sum(len(keys) for trace in parts for keys in trace)
    for share in SHARES:
        count: dict[str, int] = defaultdict(int)
        for trace in parts:
            layers = len({key[0] for keys in trace for key in keys})
            capacity = max(len(trace[0]), round(experts * layers * share / 100))
            for name, policy in policies(capacity, trace, layers).items():
                count[name] += hits(trace, capacity, policy)
        for name, value in count.items():
            found[name].append(round(value / requests, 4))
    return dict(found)


def compare_policies(args: argparse.Namespace) -> None:
    model = dsv4.load("nano")
    kinds = documents(model, args.text, args.tokens)
    recorded = {
        kind: [token for ids in found for token in record(model, ids)]
        for kind, found in kinds.items()
    }
    counts = {kind: len(tokens) for kind, tokens in recorded.items()}
    print("tokens:", counts, flush=True)
    results = {}
    for name, parts in traces(recorded, model.config.num_hash_layers).items():
        results[name] = rates(parts, model.config.n_routed_experts)
        print(f"\n{name}: hits in %, cache of {SHARES.start} to 90 % of all experts")
        for policy, values in results[name].items():
            print(f"{policy:10}" + "".join(f"{100 * value:6.1f}" for value in values), flush=True)
    written = {"tokens": counts, "shares": [*SHARES], "hits": results}
    (args.out / "policies.json").write_text(json.dumps(written, indent=1) + "\n")
    plot(results, args.out / "policies.png")


def plot(results: dict[str, dict[str, list[float]]], path: Path) -> None:
    from matplotlib import pyplot

    shown = ("all", "learned", "by layer")
    figure, axes = pyplot.subplots(1, len(shown), figsize=(13, 4.2), sharey=True)
    for axis, name in zip(axes, shown, strict=True):
        for policy, values in results[name].items():
            style = {"optimum": "k--", "random": "k:"}.get(policy, "-")
            axis.plot([*SHARES], [100 * value for value in values], style, label=policy)
        axis.set(title=name, xlabel="cache, % of experts")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("hits, %")
    axes[-1].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def make_file(path: Path, size: int) -> None:
    bits = np.random.Generator(np.random.SFC64(1))
    with path.open("wb") as file:
        for _ in range(size >> 26):
            file.write(bits.integers(0, 1 << 64, size=1 << 23, dtype=np.uint64).data)
        file.flush()
        os.fsync(file.fileno())


def read_pieces(path: Path, mode: str, threads: int, count: int, seed: int) -> tuple[float, float]:
    """GB/s and processor seconds per GB of reading `count` pieces, none of them cached."""
    descriptor = os.open(path, os.O_RDONLY | (os.O_DIRECT if mode.startswith("direct") else 0))
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    size = (slots := 2 * threads) * PIECE
    slab = large_pages(size) if mode == "direct, large pages" else mmap.mmap(-1, size)
    slab[:] = bytes(len(slab))  # page faults are not what is measured
    view = memoryview(slab)
    places = random.Random(seed).sample(range(0, path.stat().st_size - PIECE, PIECE), count)

    def read(job: tuple[int, int]) -> None:
        slot, start = job
        into, done = view[slot % slots * PIECE :][:PIECE], 0
        while done < PIECE:
            done += os.preadv(descriptor, [into[done:]], start + done)
        if mode == "cached, then dropped":
            os.posix_fadvise(descriptor, start, PIECE, os.POSIX_FADV_DONTNEED)

    before, began = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(read, enumerate(places)))
    seconds, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF)
    os.close(descriptor)
    gigabytes = count * PIECE / 1e9
    busy = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return gigabytes / seconds, busy / gigabytes


def compare_reads(args: argparse.Namespace) -> None:
    modes = ("direct, large pages", "direct", "cached, then dropped", "cached")
    found: dict[tuple[str, int], list[tuple[float, float]]] = defaultdict(list)
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        path = Path(folder) / "pieces"
        make_file(path, args.gib << 30)
        for seed in range(args.repeat):
            for threads in (1, 2, 4, 8):
                for mode in modes:
                    found[mode, threads].append(read_pieces(path, mode, threads, 64, seed))
    print("threads, mode: GB/s (lowest to highest), processor s/GB")
    results = []
    for (mode, threads), runs in found.items():
        speeds, busy = zip(*runs, strict=True)
        results.append({"mode": mode, "threads": threads, "GB/s": speeds, "cpu s/GB": busy})
        print(
            f"{threads} {mode:22} {statistics.median(speeds):5.2f} "
            f"({min(speeds):.2f} to {max(speeds):.2f})  {statistics.median(busy):.3f}"
        )
    (args.out / "disk.json").write_text(json.dumps(results, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True)
    policy = commands.add_parser("policies")
    policy.add_argument("--text", type=Path, nargs="+", default=[])
    policy.add_argument("--tokens", type=int, default=2048, help="of each kind of text")
    policy.set_defaults(run=compare_policies)
    disk = commands.add_parser("disk")
    disk.add_argument("--folder", type=Path, default=Path())
    disk.add_argument("--gib", type=int, default=4)
    disk.add_argument("--repeat", type=int, default=5)
    disk.set_defaults(run=compare_reads)
    for command in (policy, disk):
        command.add_argument("--out", type=Path, default=Path())
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    args.run(args)


if __name__ == "__main__":
    main()
