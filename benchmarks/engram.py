"""What it costs to leave Engram's tables on disk.

    python benchmarks/engram.py decode [--folder FOLDER] [--gib 2] [--limit-mib 1600] [--steps 200]
    python benchmarks/engram.py lookups [--folder FOLDER] [--gib 2] [--rows 20000]

Both write (once) a random model in FOLDER: the `bench` preset with two tables that have V4.1's
reads per token, 48 rows of 256 FP8 channels, together --gib large. Ids are random, so that nearly
every row is another one and none is in a cache: the worst case.

`decode` decodes under a memory limit, with the same experts in memory each time:
  memory     tables in memory (beyond the limit, for comparison)
  prefetch   tables on disk, rows asked for when an id is known, waited for at the layer
  waiting    tables on disk, rows asked for at the layer
The page cache is dropped first. The three take turns step by step, each with ids of its own, so
that what else the machine does is the same for all; medians of steps are compared. Processor
time is that of all threads, also of those that read.

`lookups` reads random rows of both tables through the store, 4,096 at a time, beside reads of
4 KiB of the same files at random places. A row is two reads: its elements and its scales.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import random
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import torch

from dsv4 import checkpoint
from dsv4.checkpoint.experts import ExpertStore
from dsv4.checkpoint.folder import DTYPES
from dsv4.checkpoint.loading import WORKING, resident
from dsv4.checkpoint.plan import Plan
from dsv4.checkpoint.tables import TableStore, table_sources
from dsv4.engram import EngramConfig
from dsv4.model.engram import Ticket
from dsv4.model.transformer import Transformer
from dsv4.model.weights import set_weight
from dsv4.numerics.policy import FAST
from dsv4.numerics.quantized import QuantizedTensor
from dsv4.ops.cpu import threads
from dsv4.presets import preset

LAYERS = (1, 4)
"""Of twelve: V4.1 has its tables at the same depth of forty."""


def made(folder: Path, gib: float) -> Plan:
    """The plan of the random model, which is written unless it is there."""
    path = folder / f"engram-{gib:g}"
    if not (path / "config.json").exists():
        rows = int(gib * 2**30 / len(LAYERS) / 24 / 264)
        base = preset("bench")
        engram = EngramConfig(LAYERS, 4, 8, 256, rows, base.vocab_size)
        checkpoint.synth(replace(base, engram=engram), path)
    return checkpoint.make_plan(path)


def drop(plan: Plan) -> None:
    """Drop the weight files from the page cache (pages that are mapped stay)."""
    for file in {source.data.file for source in plan.sources}:
        descriptor = os.open(file, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def hold_tables(model: Transformer, plan: Plan) -> None:
    """Have the tables in memory of this process, with nothing left of them in the page cache."""
    for source in table_sources(plan):
        assert source.scale is not None and source.format is not None
        parts = []
        for stored in (source.data, source.scale):
            with stored.file.open("rb") as file:
                file.seek(stored.offset)
                raw = torch.frombuffer(bytearray(file.read(stored.nbytes)), dtype=torch.uint8)
            parts.append(raw.view(DTYPES[stored.dtype]).view(stored.shape))
        table = QuantizedTensor(parts[0], parts[1], source.format)
        set_weight(model, source.parameter.name, table)


class Late(TableStore):
    """Rows are asked for when they are waited for, as a lookup inside the layer would."""

    def submit(self, number: int, rows_BTR: torch.Tensor) -> Ticket:  # type: ignore[override]
        begin = super().submit

        class At:
            def wait(self) -> torch.Tensor:
                return begin(number, rows_BTR).wait()

        return At()


class Sequence:
    """One sequence of random ids, decoded step by step."""

    def __init__(self, model: Transformer, seed: int) -> None:
        self.model, self.state, self._draw = model, model.new_state(), random.Random(seed)

    def step(self, count: int = 1) -> tuple[float, float]:
        """Seconds, and processor seconds of all threads, of a step with so many new ids."""
        vocabulary = self.model.config.vocab_size
        ids = torch.tensor([[self._draw.randrange(vocabulary) for _ in range(count)]])
        began, before = time.perf_counter(), time.process_time()
        with torch.no_grad():
            self.model(ids, self.state, last_only=True)
        return time.perf_counter() - began, time.process_time() - before


def decode(args: argparse.Namespace) -> dict[str, object]:
    plan = made(args.folder, args.gib)
    tables = sum(source.nbytes for source in table_sources(plan))
    dense = sum(s.nbytes for s in plan.sources if not s.parameter.expert) - tables
    room = (args.limit_mib << 20) - dense - resident() - WORKING
    experts = ExpertStore.of(plan, room)
    stores = {"prefetch": TableStore.of(plan), "waiting": Late.of(plan)}
    sequences = {}
    for i, kind in enumerate(("prefetch", "waiting", "memory")):
        model = checkpoint.load(plan.folder, FAST)
        model.stream_experts(experts)
        if kind in stores:
            model.stream_tables(stores[kind])
        else:
            within = resident()
            hold_tables(model, plan)
        sequences[kind] = Sequence(model, args.seed + i)
        for _ in range(12):  # fills the experts' slots
            sequences[kind].step(16)
    drop(plan)
    steps: dict[str, list[tuple[float, float]]] = {kind: [] for kind in sequences}
    for _ in range(args.steps):
        for kind, sequence in sequences.items():
            steps[kind].append(sequence.step())
    for store in stores.values():
        store.close()
    medians = {kind: statistics.median(s for s, _ in taken) for kind, taken in steps.items()}
    busy = {kind: statistics.median(s for _, s in taken) for kind, taken in steps.items()}
    return {
        "tables_mib": tables >> 20,
        "limit_mib": args.limit_mib,
        "resident_mib_before_tables_in_memory": within >> 20,
        "experts_in_memory": experts.capacity,
        "experts": sum(s.parameter.expert for s in plan.sources) // 3,
        "tokens_per_second": {kind: round(1 / median, 2) for kind, median in medians.items()},
        "slower_than_memory_percent": {
            kind: round(100 * (median / medians["memory"] - 1), 1)
            for kind, median in medians.items()
        },
        "processor_ms_per_token": {kind: round(1e3 * s, 2) for kind, s in busy.items()},
    }


def per_second(count: int, work: Callable[[], None]) -> float:
    began = time.perf_counter()
    work()
    return count / (time.perf_counter() - began)


def random_reads(plan: Plan, count: int, threads: int) -> float:
    """Reads of 4 KiB a second, past the page cache, at random places of the tables' files."""
    source = table_sources(plan)[0].data
    descriptor = os.open(source.file, os.O_RDONLY | os.O_DIRECT)
    first, pages = source.offset // 4096 + 1, source.nbytes // 4096 - 1

    def read(seed: int) -> None:
        draw, into = random.Random(seed), mmap.mmap(-1, 4096)
        for _ in range(count // threads):
            os.preadv(descriptor, [into], 4096 * (first + draw.randrange(pages)))

    with ThreadPoolExecutor(threads) as pool:
        rate = per_second(count, lambda: list(pool.map(read, range(threads))) and None)
    os.close(descriptor)
    return rate


def lookups(args: argparse.Namespace) -> dict[str, object]:
    plan = made(args.folder, args.gib)
    generator = torch.Generator().manual_seed(args.seed)
    engram = plan.config.engram
    assert engram is not None
    rows = [torch.randint(count, (args.rows,), generator=generator) for count in engram.rows]
    found: dict[str, object] = {
        f"reads_of_4k_per_second_{threads}_threads": round(random_reads(plan, args.rows, threads))
        for threads in (1, 8, 32)
    }
    for count in (1, 4, 16):
        store = TableStore.of(plan, count)
        for name, prepare in (("cold", lambda: drop(plan)), ("cached", lambda: None)):
            prepare()

            def work(store: TableStore = store) -> None:
                for number, wanted in enumerate(rows):
                    for part in wanted.split(4096):
                        store.submit(number, part.view(1, -1, 1)).wait()

            rate = per_second(2 * args.rows, work)
            found[f"{name}_rows_per_second_{count}_threads"] = round(rate)
        store.close()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("kind", choices=("decode", "lookups"))
    parser.add_argument("--folder", type=Path, default=Path("build/benchmarks"))
    parser.add_argument("--gib", type=float, default=2)
    parser.add_argument("--limit-mib", type=int, default=1600)
    parser.add_argument("--threads", type=int, help="that compute; one per core unless given")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=time.time_ns() % 2**31)
    args = parser.parse_args()
    threads.use(args.threads)
    load = os.getloadavg()[0]
    found = (decode if args.kind == "decode" else lookups)(args)
    print(json.dumps({"load_before": round(load, 1), "cpus": os.cpu_count(), **found}, indent=1))


if __name__ == "__main__":
    main()
