"""How the engine serves: many at once, a prefix seen before, a restart, guesses.

    benchmarks/serving.py bench                      # a folder, `nano`, or a preset's name

Four measurements, one JSON line each (to --out too), all through the engine alone (ids in, ids
out, no HTTP):

- `together`: tokens/s of 1, 2, 4, 8 and 16 requests that decode at once, in turns, medians;
- `prefix`: seconds to the first token of a prompt of --prompt ids: cold, with the prefix in
  memory, and in a new engine that finds it in a folder (whose pages are dropped from memory
  first, where the system lets us); the answers are compared token by token;
- `guesses`: decoding with and without guesses of the prediction block, in turns;
- `alone`: that every token of `together` is the token the request is answered alone.

Random ids do for `together` and `prefix`. Guesses depend on the text: on random weights nearly
none is right, so `guesses` is worth reading for a trained model.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dsv4
from dsv4 import checkpoint
from dsv4.cache.store import Store
from dsv4.chat.model import Model
from dsv4.chat.request import Request
from dsv4.engine.core import Core
from dsv4.engine.memory import Memory, default_capacity
from dsv4.engine.request import Event, Finish, Generation, Token
from dsv4.engine.sampler import GREEDY
from dsv4.engine.speculation import Mode
from dsv4.locate import DEFAULT
from dsv4.presets import PRESETS, preset

AT_ONCE = (1, 2, 4, 8, 16)
QUESTIONS = (
    "What is a lighthouse?",
    "Tell me a short story about a fox and a well.",
    "How do I boil an egg?",
    "Write a Python function that adds two numbers.",
)


def ids(model: Model, count: int, seed: int) -> tuple[int, ...]:
    return tuple(random.Random(seed).choices(range(2, model.config.vocab_size), k=count))


def make(model: Model, store: Store | None = None, speculation: Mode = "off") -> Core:
    memory = Memory(model.transformer, default_capacity(), binding=model.binding, store=store)
    return Core(model.transformer, memory, speculation=speculation)


class Answer:
    """The tokens of a request, and when they came."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.times: list[float] = []
        self.cached = 0

    def __call__(self, event: Event | Exception) -> None:
        if isinstance(event, Exception):
            raise event
        if isinstance(event, Token):
            self.tokens.append(event.id)
            self.times.append(time.perf_counter())
        elif isinstance(event, Finish):
            self.cached = event.cached


def run(core: Core, *generations: Generation) -> list[Answer]:
    answers = [Answer() for _ in generations]
    for generation, answer in zip(generations, answers, strict=True):
        core.check(generation)
        core.add(generation, answer)
    while core.busy:
        core.step()
    return answers


def together(model: Model, tokens: int, rounds: int) -> Iterator[dict[str, Any]]:
    """Decoding speed by number of requests. The time in which all decode counts."""
    rates: dict[int, list[float]] = {count: [] for count in AT_ONCE}
    alone: dict[int, list[int]] = {}
    same = True
    for turn in range(rounds):
        for count in AT_ONCE:
            core = make(model)
            asked = [
                Generation(ids(model, 64, 100 * turn + i), tokens, sampling=GREEDY)
                for i in range(count)
            ]
            answers = run(core, *asked)
            began = max(answer.times[0] for answer in answers)
            ended = min(answer.times[-1] for answer in answers)
            inside = sum(began < at <= ended for answer in answers for at in answer.times)
            rates[count].append(inside / (ended - began))
            for i, answer in enumerate(answers):
                same = same and alone.setdefault(100 * turn + i, answer.tokens) == answer.tokens
    single = statistics.median(rates[1])
    yield {
        "what": "together",
        "tokens_per_s": {n: round(statistics.median(rate), 1) for n, rate in rates.items()},
        "over_one": {n: round(statistics.median(r) / single, 2) for n, r in rates.items()},
        "rounds": rounds,
        "same_tokens_in_every_company": same,
    }


def prefix(model: Model, count: int, rounds: int) -> Iterator[dict[str, Any]]:
    """Time to the first token: cold, from memory, from disk after a restart."""
    cold, warm, disk, cached, same = [], [], [], [], True
    for turn in range(rounds):
        generation = Generation(ids(model, count, turn), 8, sampling=GREEDY)
        with tempfile.TemporaryDirectory() as folder:
            store = Store(Path(folder), model.binding, 1 << 36)
            core = make(model, store)
            answers = []
            for times in (cold, warm):
                began = time.perf_counter()
                answers += run(core, generation)
                times.append(answers[-1].times[0] - began)
            store.close(None)
            forget_pages(Path(folder))
            store = Store(Path(folder), model.binding, 1 << 36)
            core = make(model, store)
            began = time.perf_counter()
            answers += run(core, generation)
            disk.append(answers[-1].times[0] - began)
            cached = [answer.cached for answer in answers]
            same = same and all(answer.tokens == answers[0].tokens for answer in answers)
            stored = store.stats.bytes
            store.close()
    first = statistics.median(cold)
    yield {
        "what": "prefix",
        "prompt": count,
        "cached": cached,
        "seconds": {
            "cold": round(first, 3),
            "memory": round(statistics.median(warm), 4),
            "disk": round(statistics.median(disk), 4),
        },
        "of_cold": {
            "memory": round(statistics.median(warm) / first, 4),
            "disk": round(statistics.median(disk) / first, 4),
        },
        "stored_bytes": stored,
        "rounds": rounds,
        "same_tokens": same,
    }


def forget_pages(folder: Path) -> None:
    """Have the system read the files from the disk again."""
    if not hasattr(os, "posix_fadvise"):
        return
    os.sync()
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def guesses(model: Model, tokens: int, rounds: int) -> Iterator[dict[str, Any]]:
    """Decoding one request with and without guesses."""
    engine = dsv4.Engine(model)
    rates: dict[str, list[float]] = {"on": [], "off": [], "auto": []}
    guessed = right = 0
    gains, same = [], True
    for _ in range(rounds):
        for question in QUESTIONS:
            request = Request([{"role": "user", "content": question}], effort="none")
            asked = Generation(engine.prepare(request).ids, tokens, sampling=GREEDY)
            seen = []
            for mode in ("off", "on", "auto"):
                core = make(model, speculation=mode)
                (answer,) = run(core, asked)
                rates[mode].append((len(answer.tokens) - 1) / (answer.times[-1] - answer.times[0]))
                seen.append(answer.tokens)
                if mode == "on":
                    guessed += core.speculation.guessed
                    right += core.speculation.right
                if mode == "auto" and core.speculation.gain is not None:
                    gains.append(core.speculation.gain)
            same = same and seen[0] == seen[1] == seen[2]
    engine.close()
    yield {
        "what": "guesses",
        "acceptance": round(right / guessed, 3) if guessed else None,
        "tokens_per_s": {mode: round(statistics.median(rate), 1) for mode, rate in rates.items()},
        "gain_that_auto_measured": round(statistics.median(gains), 3) if gains else None,
        "same_tokens": same,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="a folder, a bundled model, or a preset to draw at random")
    parser.add_argument("--prompt", type=int, default=16384, help="ids of the shared prefix")
    parser.add_argument("--tokens", type=int, default=64, help="tokens per answer")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=("together", "prefix", "guesses"), action="append")
    parser.add_argument("--out", type=Path, help="append the lines to this file too")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        name = args.model
        if name in PRESETS and name != DEFAULT:  # that one is trained
            checkpoint.synth(preset(name), Path(made) / name)
            name = str(Path(made) / name)
        model = dsv4.load(name, "fast")
        parts = {
            "together": lambda: together(model, args.tokens, args.rounds),
            "prefix": lambda: prefix(model, args.prompt, args.rounds),
            "guesses": lambda: guesses(model, 4 * args.tokens, args.rounds),
        }
        for part in args.only or parts:
            for row in parts[part]():
                line = json.dumps({"model": args.model, **row})
                print(line, flush=True)
                if args.out is not None:
                    with args.out.open("a", encoding="utf-8") as file:
                        file.write(line + "\n")


if __name__ == "__main__":
    main()
