"""Speed of llama.cpp and transformers on one model, for comparison with dsv4.

    python benchmarks/peers.py llama --model FILE.gguf --prefill 512,2048 --decode 0,8192
    python benchmarks/peers.py transformers --model FOLDER --prefill 512 --decode 0

Each prints one JSON object per measurement; `benchmarks/cpu.py` calls `run_llama` and
`run_transformers`, which do the same in a process of their own. FILE.gguf comes from
`benchmarks/to_gguf.py`, FOLDER from `dsv4 export --layout transformers`. `llama` needs
llama-cpp-python, `transformers` torch and transformers; neither needs dsv4, so each may run in an
environment of its own.

`prefill N` is the time from N ids to the logits of the last. `decode D` is the time per id, one
at a time, after D ids: the D are really computed, never made up, and a depth that would take
longer than `--limit` seconds to fill is skipped with a line that says so. Every measurement
starts with empty state; ids are random, and the same for both engines.

llama.cpp's threads spin while they wait for each other, so one busy process beside it can slow it
many times over: measure on an idle machine. There is no made-up state for great depths: zeros at
the right positions were tried, and a step then takes two thirds of the time of a real one.

Each is repeated (`--repeats`; not if one takes half a minute): a decode repeat is the next
`--steps` ids. `tokens_per_second` is the best repeat, the one that other processes disturbed
least; `seconds` has all of them. `peak_rss_bytes` is the high-water mark of the process until
then, mapped weight files included.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

Measurement = dict[str, Any]
LONG = 30.0
"""Seconds after which a measurement is not repeated."""


class Engine(Protocol):
    """A model with one sequence of state. `info` is what a reader should know of its settings."""

    info: Measurement
    vocab_size: int

    def start(self, capacity: int) -> None:
        """Forget everything; make room for `capacity` ids."""

    def feed(self, ids: Sequence[int]) -> None:
        """Process more ids, and return when the logits of the last are there."""


class Llama:
    """llama.cpp through its C interface: no sampling, no tokenizer, logits of the last id only."""

    def __init__(self, model: Path, threads: int, batch: int, flash: int, mapped: bool) -> None:
        import llama_cpp

        self.lib: Any = llama_cpp
        # Its log goes to standard error; what matters of it is in the numbers.
        self._silent = llama_cpp.llama_log_callback(lambda level, text, data: None)
        llama_cpp.llama_log_set(self._silent, None)
        llama_cpp.llama_backend_init()
        options = llama_cpp.llama_model_default_params()
        if not mapped:
            options.load_mode = 0
        self.model = llama_cpp.llama_model_load_from_file(str(model).encode(), options)
        if not self.model:
            raise SystemExit(f"llama.cpp cannot load {model}")
        self.vocab_size = llama_cpp.llama_vocab_n_tokens(
            llama_cpp.llama_model_get_vocab(self.model)
        )
        self.threads, self.batch_size, self.flash = threads, batch, flash
        self.batch = llama_cpp.llama_batch_init(batch, 0, 1)
        self.context: Any = None
        self.info = {
            "engine": "llama.cpp",
            "version": f"llama-cpp-python {llama_cpp.__version__}",
            "batch": batch,
            "flash_attention": {-1: "auto", 0: "off", 1: "on"}[flash],
            "mapped": mapped,
        }

    def start(self, capacity: int) -> None:
        if self.context is not None:
            self.lib.llama_free(self.context)
        options = self.lib.llama_context_default_params()
        options.n_ctx = capacity
        options.n_batch = options.n_ubatch = self.batch_size
        options.n_threads = options.n_threads_batch = self.threads
        options.flash_attn_type = self.flash
        self.context = self.lib.llama_init_from_model(self.model, options)
        if not self.context:
            raise SystemExit(f"llama.cpp cannot make a context of {capacity}")
        self.position = 0

    def feed(self, ids: Sequence[int]) -> None:
        batch = self.batch
        for start in range(0, len(ids), self.batch_size):
            part = ids[start : start + self.batch_size]
            batch.n_tokens = len(part)
            for row, token in enumerate(part):
                batch.token[row] = token
                batch.pos[row] = self.position + row
                batch.n_seq_id[row] = 1
                batch.seq_id[row][0] = 0
                batch.logits[row] = start + row == len(ids) - 1
            if self.lib.llama_decode(self.context, batch) != 0:
                raise SystemExit(f"llama.cpp failed at position {self.position}")
            self.position += len(part)
        self.lib.llama_get_logits_ith(self.context, -1)  # waits until they are computed


class Transformers:
    """DeepseekV4ForCausalLM in float32, with the cache it makes for itself."""

    def __init__(self, model: Path, threads: int, batch: int, experts: str) -> None:
        import torch
        import transformers

        torch.set_num_threads(threads)
        self.torch: Any = torch
        self.model = transformers.DeepseekV4ForCausalLM.from_pretrained(
            model,
            dtype=torch.float32,
            attn_implementation="eager",  # the only one here that knows attention sinks
            experts_implementation=experts,
        ).eval()
        self.vocab_size = self.model.config.vocab_size
        self.batch_size = batch
        self.cache: Any = None
        self.info = {
            "engine": "transformers",
            "version": f"transformers {transformers.__version__}, torch {torch.__version__}",
            "batch": batch,
            "experts": experts,
        }

    def start(self, capacity: int) -> None:
        self.cache = None

    def feed(self, ids: Sequence[int]) -> None:
        with self.torch.inference_mode():
            for start in range(0, len(ids), self.batch_size):
                part = self.torch.tensor([ids[start : start + self.batch_size]])
                out = self.model(part, past_key_values=self.cache, use_cache=True, logits_to_keep=1)
                self.cache = out.past_key_values


def measure(
    engine: Engine,
    prefill: Sequence[int],
    decode: Sequence[int],
    *,
    threads: int,
    repeats: int,
    steps: int,
    limit: float,
) -> Iterator[Measurement]:
    """One measurement (or skipped one) after another: first all of `prefill`, then of `decode`."""
    random.seed(0)
    longest = max([*prefill, *(depth + repeats * steps for depth in decode)], default=0)
    ids = [random.randrange(engine.vocab_size) for _ in range(max(longest, 64))]
    engine.start(64)
    engine.feed(ids[:32])  # pages in the weights
    engine.feed(ids[32:33])
    rate = 0.0  # ids per second of the longest prompt so far

    def finished(what: str, size: int, count: int, seconds: list[float]) -> Measurement:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        return engine.info | {
            "threads": threads,
            what: size,
            "tokens_per_second": round(count / min(seconds), 2),
            "seconds": [round(value, 4) for value in seconds],
            "peak_rss_bytes": peak,
        }

    def hopeless(what: str, size: int) -> Measurement | None:
        if rate == 0.0 or size / rate <= limit:
            return None
        reason = f"{size} ids at {rate:.1f}/s would take longer than {limit:.0f} s"
        return engine.info | {what: size, "skipped": reason}

    for length in sorted(prefill):
        if skipped := hopeless("prefill", length):
            yield skipped
            continue
        seconds: list[float] = []
        while len(seconds) < repeats and (not seconds or max(seconds) < LONG):
            engine.start(length)
            seconds.append(_timed(engine, ids[:length]))
        rate = length / min(seconds)
        yield finished("prefill", length, length, seconds)
    for depth in sorted(decode):
        if skipped := hopeless("decode", depth):
            yield skipped
            continue
        engine.start(depth + repeats * steps)
        fill = _timed(engine, ids[:depth]) if depth else 0.0
        rate = depth / fill if depth >= 512 else rate
        seconds, position = [], depth
        while len(seconds) < repeats and (not seconds or max(seconds) < LONG):
            began = time.perf_counter()
            for token in ids[position : position + steps]:
                engine.feed([token])
            seconds.append(time.perf_counter() - began)
            position += steps
        yield finished("decode", depth, steps, seconds) | {"fill_seconds": round(fill, 2)}


def _timed(engine: Engine, ids: Sequence[int]) -> float:
    began = time.perf_counter()
    engine.feed(ids)
    return time.perf_counter() - began


def run_llama(python: str, model: Path, *options: str) -> Iterator[Measurement]:
    """`peers.py llama` with the interpreter `python`, which has llama_cpp; yields as it prints.

    `options` are those of the command line. Raises RuntimeError if it fails.
    """
    return _run([python, __file__, "llama", "--model", str(model), *options])


def run_transformers(model: Path, *options: str) -> Iterator[Measurement]:
    """`peers.py transformers` with this interpreter; else like `run_llama`."""
    return _run([sys.executable, __file__, "transformers", "--model", str(model), *options])


def _run(command: list[str]) -> Iterator[Measurement]:
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            yield json.loads(line)
    if process.returncode != 0:
        raise RuntimeError(f"{' '.join(command[:3])} returned {process.returncode}")


def _sizes(text: str) -> list[int]:
    return [int(part) for part in text.split(",") if part]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("engine", choices=("llama", "transformers"))
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--prefill", type=_sizes, default=[], help="lengths")
    parser.add_argument("--decode", type=_sizes, default=[], help="depths")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=512, help="ids computed together in prefill")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--steps", type=int, default=32, help="ids per decode repeat")
    parser.add_argument("--limit", type=float, default=900.0, help="seconds for filling a state")
    parser.add_argument("--flash", type=int, choices=(-1, 0, 1), default=-1, help="llama.cpp's")
    parser.add_argument("--unmapped", action="store_true", help="llama.cpp reads the file instead")
    parser.add_argument("--experts", default="grouped_mm", help="transformers' way")
    args = parser.parse_args()
    engine: Engine
    if args.engine == "llama":
        engine = Llama(args.model, args.threads, args.batch, args.flash, not args.unmapped)
    else:
        # A file of this folder has the name of a package that transformers looks for.
        sys.path = [path for path in sys.path if path != str(Path(__file__).parent)]
        engine = Transformers(args.model, args.threads, args.batch, args.experts)
    for measurement in measure(
        engine,
        args.prefill,
        args.decode,
        threads=args.threads,
        repeats=args.repeats,
        steps=args.steps,
        limit=args.limit,
    ):
        print(json.dumps(measurement), flush=True)


if __name__ == "__main__":
    main()
