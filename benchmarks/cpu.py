"""dsv4 beside llama.cpp and transformers on this machine's processor.

    python benchmarks/cpu.py --work DIR [--llama-python PYTHON] [--engines dsv4,llama.cpp]

One command: measures how fast memory is read and matrices are multiplied, makes the `bench`
checkpoint in DIR with `dsv4 synth` (and its forms for the other engines) unless it is there, and
measures the engines in turn. A measurement is one prompt length or one decoding depth of one
engine in a process of its own; a round is all of them once, neighbours being different engines at
the same size, and what counts is the median over the rounds. llama.cpp needs an interpreter with
llama-cpp-python (`--llama-python`) and, for making its file, the `gguf` package in this one;
transformers needs transformers in this one. An engine that is missing is left out.

Every measurement is appended to RESULTS/<machine>.jsonl when it is done. Started again with the
same `--run` (the commit, unless given), the command goes on where it stopped, also with other
sizes, engines or more rounds. It ends with a table on standard output and a picture beside the
measurements; `--report` makes these alone. See `peers.py` for how the others are run.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import json
import multiprocessing
import re
import statistics
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import cpu_report
import peers

from dsv4.evaluation import machine
from dsv4.ops.cpu.threads import cores

ROOT = Path(__file__).resolve().parents[1]
ENGINES = ("dsv4", "llama.cpp", "transformers")
Record = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Piece:
    """One measurement of one round."""

    round: int
    kind: str
    size: int
    engine: str

    def matches(self, record: Record) -> bool:
        return all(record.get(key) == value for key, value in dataclasses.asdict(self).items())


class Results:
    """The measurements of one run in a file of many runs."""

    def __init__(self, path: Path, common: Record) -> None:
        self.path, self._common = path, common
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        records = [json.loads(line) for line in lines]
        same = ("run", "model", "threads")
        self.records = [r for r in records if all(r.get(key) == common[key] for key in same)]

    def add(self, record: Record) -> None:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        record = self._common | {"date": now} | record
        self.records.append(record)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def has(self, piece: Piece) -> bool:
        return any(piece.matches(record) for record in self.records)


def pieces(
    rounds: int, engines: Sequence[str], prefill: Sequence[int], decode: Sequence[int]
) -> list[Piece]:
    """Everything to measure, in order: engines alternate, and every round turns their order."""
    sizes = [("prefill", size) for size in prefill] + [("decode", size) for size in decode]
    found = []
    for number in range(1, rounds + 1):
        first = (number - 1) % len(engines)
        turned = [*engines[first:], *engines[:first]]
        found += [Piece(number, kind, size, engine) for kind, size in sizes for engine in turned]
    return found


def too_long(piece: Piece, records: Sequence[Record], limit: float) -> str | None:
    """Why a measurement is not worth its time, judged by the longest prompt of that engine."""
    known = [
        (record["size"], record["tokens"] / min(record["seconds"]))
        for record in records
        if record.get("engine") == piece.engine
        and record.get("kind") == "prefill"
        and "seconds" in record
    ]
    if not known or piece.size / max(known)[1] <= limit:
        return None
    return f"{piece.size} tokens at {max(known)[1]:.1f}/s take longer than {limit:.0f} s"


def measure_machine(threads: int) -> Record:
    """The ceilings, measured in a fresh process."""
    fresh = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=fresh) as process:
        found = process.submit(machine.ceilings, threads).result()
    return {"kind": "ceilings"} | dataclasses.asdict(found)


def measure(piece: Piece, models: dict[str, Path], args: argparse.Namespace) -> Record:
    """Run one piece in a process of its own."""
    sizes = {"prefill": "", "decode": ""} | {piece.kind: str(piece.size)}
    options = [f"--{kind}={value}" for kind, value in sizes.items()]
    options += ["--threads", str(args.threads)]
    model = models[piece.engine]
    if piece.engine == "dsv4":
        command = [sys.executable, "-m", "dsv4", "bench", str(model), "--json", *options]
        command += ["--tokens", str(args.tokens), "--repeat", str(args.repeats)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        found = json.loads(done.stdout)
    else:
        options += ["--steps", str(args.tokens), "--repeats", str(args.repeats)]
        options += ["--limit", str(args.limit)]
        results = (
            peers.run_llama(args.llama_python, model, *options)
            if piece.engine == "llama.cpp"
            else peers.run_transformers(model, *options)
        )
        (found,) = results
    record = dataclasses.asdict(piece) | {"version": found.get("version")}
    if "skipped" in found:
        return record | {"skipped": found["skipped"]}
    record["tokens"] = piece.size if piece.kind == "prefill" else args.tokens
    record |= {key: found[key] for key in ("seconds", "peak_rss_bytes")}
    if "floor" in found:
        record["floor_bytes"] = found["floor"]["bytes"]
        # Read just before and after this measurement: the memory may be shared.
        record["read_bytes"] = found["ceilings"]["read_bytes_per_second"]
    return record


def make_models(args: argparse.Namespace, engines: Sequence[str]) -> dict[str, Path]:
    """The checkpoint in every form that is needed and can be made; engine -> what it loads."""
    folder = args.work / args.preset
    dsv4 = [sys.executable, "-m", "dsv4"]
    if not (folder / "config.json").is_file():
        _run([*dsv4, "synth", str(folder), "--preset", args.preset])
    models = {"dsv4": folder}
    if "llama.cpp" in engines:
        gguf = args.work / f"{args.preset}.gguf"
        if args.llama_python is None:
            note("llama.cpp left out: no --llama-python")
        elif gguf.is_file() or importlib.util.find_spec("gguf"):
            if not gguf.is_file():
                partial = gguf.with_suffix(".partial")
                _run(
                    [sys.executable, str(ROOT / "benchmarks/to_gguf.py"), str(folder), str(partial)]
                )
                partial.replace(gguf)
            models["llama.cpp"] = gguf
        else:
            note(f"llama.cpp left out: {gguf} is missing, and the package gguf to make it")
    if "transformers" in engines:
        exported = args.work / f"{args.preset}-transformers"
        if importlib.util.find_spec("transformers") is None:
            note("transformers left out: it is not installed")
        else:
            if not (exported / "config.json").is_file():
                _run([*dsv4, "export", str(folder), str(exported), "--layout", "transformers"])
            models["transformers"] = exported
    return {engine: models[engine] for engine in engines if engine in models}


def _run(command: list[str]) -> None:
    note(" ".join(command[1:]))
    subprocess.run(command, check=True, stdout=sys.stderr)


def note(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def commit() -> str:
    """The checked-out commit, with a + if files differ from it; "unknown" outside a checkout."""

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True)
        return done.stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no", "--", "src", "csrc")
    return (git("rev-parse", "--short", "HEAD") or "unknown") + ("+" if changed else "")


def main() -> None:
    def sizes(text: str) -> list[int]:
        return [int(part) for part in text.split(",") if part]

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="folder for the checkpoints")
    parser.add_argument("--preset", default="bench", help="checkpoint to measure with")
    parser.add_argument("--llama-python", help="interpreter that has llama-cpp-python")
    parser.add_argument("--engines", default=",".join(ENGINES))
    parser.add_argument("--prefill", type=sizes, default=[512, 2048, 16384], help="lengths")
    parser.add_argument("--decode", type=sizes, default=[0, 1024, 8192, 65536], help="depths")
    parser.add_argument("--tokens", type=int, default=32, help="steps of a decode measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=1, help="repeats within a measurement")
    parser.add_argument("--threads", type=int, default=cores())
    parser.add_argument("--limit", type=float, default=900.0, help="seconds of a prefill")
    parser.add_argument("--run", help="name of this run (default: the commit)")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--report", action="store_true", help="measure nothing")
    args = parser.parse_args()
    engines = [engine for engine in args.engines.split(",") if engine]
    if unknown := set(engines) - set(ENGINES):
        parser.error(f"unknown engines: {', '.join(unknown)}")

    version, name = commit(), machine.describe()
    path = args.results / f"{re.sub('[^a-z0-9]+', '-', name.lower()).strip('-')}.jsonl"
    common = {
        "run": args.run or version,
        "commit": version,
        "machine": name,
        "model": args.preset,
        "threads": args.threads,
    }
    results = Results(path, common)
    if not args.report:
        measure_all(results, engines, args)
    if not results.records:
        raise SystemExit(f"{path} holds nothing of the run {common['run']}")
    print(cpu_report.table(results.records))
    picture = path.with_name(f"{path.stem}-{args.preset}.png")
    cpu_report.plot(results.records, picture)
    note(f"measurements in {path}, picture in {picture}")


def measure_all(results: Results, engines: Sequence[str], args: argparse.Namespace) -> None:
    """Every piece that the results do not have yet."""
    args.work.mkdir(parents=True, exist_ok=True)
    models = make_models(args, engines)
    if not models:
        raise SystemExit("no engine to measure")
    ready = [engine for engine in engines if engine in models]
    todo = pieces(args.rounds, ready, args.prefill, args.decode)
    machine_known = {r["round"] for r in results.records if r.get("kind") == "ceilings"}
    for number, piece in enumerate(todo, 1):
        if piece.round not in machine_known:
            results.add({"round": piece.round} | measure_machine(args.threads))
            machine_known.add(piece.round)
        if results.has(piece):
            continue
        reason = too_long(piece, results.records, args.limit)
        record = (
            dataclasses.asdict(piece) | {"skipped": reason}
            if reason
            else measure(piece, models, args)
        )
        results.add(record)
        rate = (
            f"skipped, {record['skipped']}"
            if "skipped" in record
            else f"{record['tokens'] / statistics.median(record['seconds']):.2f} tokens/s"
        )
        note(
            f"{number}/{len(todo)} round {piece.round}: {piece.engine} {piece.kind} "
            f"{piece.size}: {rate}"
        )


if __name__ == "__main__":
    main()
