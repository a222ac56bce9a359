"""How the server bears load: a storm of mixed requests, and throughput through HTTP.

    benchmarks/load.py nano                          # a folder, `nano`, or a preset's name
    benchmarks/load.py bench --only throughput

It starts `dsv4 serve` on a free port of 127.0.0.1 (or takes the port of a server that runs:
--port), and prints a JSON line for each of two parts (to --out too):

- `storm`: --requests requests, --at-once at a time, in all dialects, streamed and not, of several
  users, with shared prefixes, tools, formats and long prompts. Some clients leave: before the
  headers, in the middle of a stream, of their body; some read slowly, some send nonsense. More
  come than the queue takes, and those wait as `Retry-After` says. Afterwards the server must hold
  nothing: /debug/integrity without problems, pins, requests, tasks; no more open files than
  before; and every answer must be the one that the same request is given alone. `problems` lists
  what was otherwise, and makes the exit status 1.
- `throughput`: tokens/s of 1, 2, 4, 8 and 16 streams at once, in turns, medians, and the ratio
  to one.

Everything is bounded: --requests, --rounds, and two minutes without a byte end a request. A preset
is drawn at random, with the vocabulary of `nano` and made-up words.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import storm

from dsv4 import checkpoint
from dsv4.locate import DEFAULT, folder
from dsv4.presets import PRESETS, preset

AT_ONCE = (1, 2, 4, 8, 16)


@contextmanager
def server(model: str, log: Path, *options: str) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """`dsv4 serve` and its port. What it logs goes to a file."""
    command = [sys.executable, "-m", "dsv4", "serve", model, "--port", "0", *options]
    with log.open("wb") as file, subprocess.Popen(command, stderr=file) as process:
        try:
            yield process, port_of(process, log)
        finally:
            process.terminate()
            try:
                process.wait(60)
            finally:
                process.kill()


def write_vocabulary(model: Path, size: int) -> None:
    """That of `nano`, with words for the ids beyond it: each token of an answer is to be seen."""
    known = json.loads((folder(DEFAULT) / "tokenizer.json").read_text(encoding="utf-8"))
    ids = known["model"]["vocab"]
    used = {*ids.values(), *(token["id"] for token in known["added_tokens"])}
    ids |= {f"Ġw{i}": i for i in range(size) if i not in used}
    (model / "tokenizer.json").write_text(json.dumps(known), encoding="utf-8")


def port_of(process: subprocess.Popen[bytes], log: Path) -> int:
    """Where a server listens, once it does, by what it logs."""
    end = time.monotonic() + 300
    while time.monotonic() < end and process.poll() is None:
        for line in log.read_text(encoding="utf-8").splitlines():
            if "serving" in line:
                return int(line.rsplit(":", 1)[1])
        time.sleep(0.05)
    raise SystemExit(f"error: the server did not start\n{log.read_text(encoding='utf-8')}")


async def served(port: int) -> tuple[str, int]:
    """Name and context of the model."""
    health = json.loads(await storm.get(port, "/health"))
    body = json.dumps({"prompt": "x"}).encode()
    async with storm.Exchange(port) as exchange:
        await exchange.send(storm.Ask("/tokenize", body))
        await exchange.receive()
        answer = json.loads(b"".join([part async for part in exchange.parts()]))
    return health["model"], answer["max_model_len"]


async def blow(port: int, process: int | None, args: argparse.Namespace) -> dict[str, Any]:
    model, context = await served(port)
    return await storm.storm(
        port,
        requests=args.requests,
        at_once=args.at_once,
        model=model,
        context=min(context, 40_000),
        process=process,
        seed=args.seed,
    )


async def throughput(port: int, args: argparse.Namespace) -> dict[str, Any]:
    model, _ = await served(port)
    rates: dict[int, list[float]] = {count: [] for count in AT_ONCE}
    gaps: dict[int, list[float]] = {count: [] for count in AT_ONCE}
    for turn in range(args.rounds):
        for count in AT_ONCE:
            speed, gap = await storm.rate(port, count, model=model, tokens=args.tokens, seed=turn)
            rates[count].append(speed)
            gaps[count].append(gap)
    single = statistics.median(rates[1])
    return {
        "what": "throughput",
        "tokens_per_s": {n: round(statistics.median(rate), 1) for n, rate in rates.items()},
        "over_one": {n: round(statistics.median(rate) / single, 2) for n, rate in rates.items()},
        "between_tokens_ms": {n: round(statistics.median(gap), 2) for n, gap in gaps.items()},
        "rounds": args.rounds,
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="a folder, a bundled model, or a preset to draw at random")
    parser.add_argument("--port", type=int, help="of a server that runs here, with this model")
    parser.add_argument("--requests", type=int, default=300)
    parser.add_argument("--at-once", type=int, default=150)
    parser.add_argument("--running", default="16", help="requests that are computed together")
    parser.add_argument("--queue", default="64", help="requests that may wait")
    parser.add_argument("--kv-memory", default="256M")
    parser.add_argument("--tokens", type=int, default=64, help="tokens per answer of `throughput`")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", choices=("storm", "throughput"), action="append")
    parser.add_argument("--out", type=Path, help="append the lines to this file too")
    args = parser.parse_args()
    parts = args.only or ["storm", "throughput"]
    failed = False
    with ExitStack() as stack:
        made = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        port, process, log = args.port, None, made / "log"
        if port is None:
            name = args.model
            if name in PRESETS and name != DEFAULT:  # that one is trained
                checkpoint.synth(preset(name), made / name)
                write_vocabulary(made / name, preset(name).vocab_size)
                name = str(made / name)
            options = ("--running", args.running, "--queue", args.queue)
            running, port = stack.enter_context(
                server(name, log, *options, "--kv-memory", args.kv_memory)
            )
            process = running.pid
        for part in parts:
            row = asyncio.run(
                blow(port, process, args) if part == "storm" else throughput(port, args)
            )
            failed = failed or bool(row.get("problems"))
            line = json.dumps({"model": args.model, **row})
            print(line, flush=True)
            if args.out is not None:
                with args.out.open("a", encoding="utf-8") as file:
                    file.write(line + "\n")
        logged = log.read_text(encoding="utf-8") if log.exists() else ""
        if "ERROR" in logged or "Traceback" in logged:
            print(logged[-20_000:], file=sys.stderr)
            failed = True
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
