"""`dsv4 bench`: how fast a model runs here, what bounds it, how far `fast` is from the truth."""

from __future__ import annotations

import dataclasses
import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dsv4.cli.options import ModelArgument, NumericsOption

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dsv4.chat.model import Model
    from dsv4.cli.console import Done
    from dsv4.evaluation.distance import Report
    from dsv4.evaluation.machine import Ceilings
    from dsv4.evaluation.profile import Profile


def bench(
    model: ModelArgument,
    numerics: NumericsOption = "fast",
    threads: Annotated[
        int | None,
        typer.Option(help="Threads; one per core unless given.", min=1, max=1024, metavar="N"),
    ] = None,
    prefill: Annotated[
        str, typer.Option(help="Prompt lengths to measure.", metavar="N,N")
    ] = "512,2048",
    decode: Annotated[
        str, typer.Option(help="Depths to measure decoding at.", metavar="N,N")
    ] = "0,1024,8192",
    tokens: Annotated[int, typer.Option(help="Steps per decode measurement.", min=1)] = 32,
    repeat: Annotated[int, typer.Option(help="Measurements, of which the median.", min=1)] = 3,
    explain: Annotated[
        bool, typer.Option("--explain", help="Show bytes, work, floor and time by stage.")
    ] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Compare fast with exact and official.")
    ] = False,
    text: Annotated[
        Path | None, typer.Option(help="--check: a text file instead of random ids.")
    ] = None,
    ids: Annotated[Path | None, typer.Option(help="--check: a file of token ids.")] = None,
    length: Annotated[int, typer.Option(help="--check: tokens to compare.", min=2)] = 256,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON, one line per measurement.")
    ] = False,
) -> None:
    """Measure how fast a model runs on this machine.

    The read bandwidth and the GEMM rate of the machine are measured first, with the same
    threads. Depths are filled by a real prefill of random ids.

    --explain compares every stage of a step with the time its bytes and operations need at
    least; what fits into the caches can take less. --check compares logits; it fails with exit
    code 1 if fast is more than twice as far from exact (relative L2) as official is, or if
    native kernels give other bits for the same tokens when those come in chunks or one by one.
    """
    from dsv4.errors import UsageError
    from dsv4.evaluation.machine import ceilings, reset_peak, use_threads
    from dsv4.numerics.policy import by_name
    from dsv4.ops.cpu.threads import default, interleave

    if explain and check:
        raise UsageError("--explain and --check are two commands", "give one of them")
    if (text or ids) and not check:
        raise UsageError("--text and --ids belong to --check", "the other measurements draw ids")
    policy, count = by_name(numerics), threads or default()
    lengths, depths = sizes(prefill, 1), sizes(decode, 0)
    if check:
        _check(model, text, ids, length, tokens, count, as_json)
        return
    if not lengths and not depths:
        raise UsageError("there is nothing to measure", "give sizes to --prefill or --decode")
    from dsv4.cli.console import status

    with status("measuring the machine"):
        bounds = ceilings(count)
    reset_peak()
    interleave()
    use_threads(count, policy)
    loaded = _load(model, numerics)
    if explain:
        _explain(loaded, lengths, depths, tokens, repeat, bounds, as_json)
    else:
        _speed(loaded, lengths, depths, tokens, repeat, bounds, as_json)


def sizes(text: str, least: int) -> list[int]:
    """The numbers of a comma-separated list, each at least `least`. Raises UsageError."""
    from dsv4.errors import UsageError

    try:
        values = [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        values = [least - 1]
    if any(value < least for value in values):
        raise UsageError(f"{text!r} is no list of sizes", f"numbers from {least}, with commas")
    return values


def _load(model: str, numerics: str) -> Model:
    import dsv4
    from dsv4.cli.console import status

    with status(f"loading {model}"):
        return dsv4.load(model, numerics)


def _about(model: Model, bounds: Ceilings) -> dict[str, Any]:
    """What every result is reported with."""
    from dsv4.evaluation.machine import describe
    from dsv4.ops.cpu import kernels
    from dsv4.version import __version__

    return {
        "engine": "dsv4",
        "version": __version__,
        "model": model.name,
        "numerics": model.numerics,
        "machine": describe(),
        "instruction_set": kernels and kernels.instruction_set(),
        "threads": bounds.threads,
        "ceilings": {
            "read_bytes_per_second": round(bounds.read_bytes),
            "best_read_bytes_per_second": round(bounds.best_read_bytes),
            "f32_flops_per_second": round(bounds.f32_flops),
            "bf16_flops_per_second": round(bounds.bf16_flops),
        },
    }


def _headline(about: dict[str, Any]) -> str:
    rates = about["ceilings"]
    kernels = f", kernels for {about['instruction_set']}" if about["instruction_set"] else ""
    wide = rates["bf16_flops_per_second"]
    return (
        f"{about['model']}, numerics {about['numerics']}{kernels}\n"
        f"{about['machine']}; {about['threads']} thread{'s' * (about['threads'] != 1)}: reads "
        f"{rates['read_bytes_per_second'] / 1e9:.1f} GB/s "
        f"(at best {rates['best_read_bytes_per_second'] / 1e9:.1f}), GEMM "
        f"{rates['f32_flops_per_second'] / 1e9:.0f} GFLOP/s float32"
        + (f", {wide / 1e9:.0f} bfloat16" if wide else "")
    )


def _speed(
    model: Model,
    lengths: list[int],
    depths: list[int],
    tokens: int,
    repeat: int,
    bounds: Ceilings,
    as_json: bool,
) -> None:
    from dsv4.cli.console import output, progress, size
    from dsv4.evaluation import roofline, speed
    from dsv4.evaluation.machine import reread

    transformer = model.transformer
    whole = speed.work(lengths, depths, tokens, repeat)

    def shift(before: int, done: Done, count: int) -> None:
        done(before + count)

    def timings() -> Iterator[speed.Timing]:
        speed.warm_up(transformer)
        with progress("measure", whole) as done:
            before = 0
            for length in lengths:
                yield speed.prefill(transformer, length, repeat, partial(shift, before, done))
                before += repeat * length
            later = partial(shift, before, done)
            yield from speed.decode(transformer, depths, tokens, repeat, later)

    results = []
    for timing in timings():
        prompt = timing.kind == "prefill"
        cost = (
            roofline.prompt_cost(transformer, timing.size)
            if prompt
            else roofline.forward_cost(transformer, timing.size + tokens * repeat // 2)
        )
        around = reread(bounds)
        floor, all_stages = roofline.floor(cost, around), roofline.total(cost)
        per_pass = timing.tokens if prompt else 1
        result = _about(model, around) | {
            timing.kind: timing.size,
            "tokens": timing.tokens,
            "tokens_per_second": round(timing.tokens_per_second, 3),
            "seconds": [round(value, 5) for value in timing.seconds],
            "floor": {
                "bytes": round(all_stages.bytes),
                "flops": round(all_stages.flops),
                "tokens_per_second": round(per_pass / floor, 3),
            },
            "of_floor": round(timing.tokens_per_second * floor / per_pass, 4),
            "peak_rss_bytes": timing.peak_bytes,
        }
        results.append(result)
        if as_json:
            print(json.dumps(result), flush=True)
    if as_json:
        return
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for i, name in enumerate(("", "tokens/s", "at most", "reached", "repeats", "peak memory")):
        table.add_column(name, justify="right" if i else "left", no_wrap=True)
    for result in results:
        kind = "prefill" if "prefill" in result else "decode"
        rates = [result["tokens"] / value for value in result["seconds"]]
        table.add_row(
            f"prefill {result[kind]:,}" if kind == "prefill" else f"decode after {result[kind]:,}",
            f"{result['tokens_per_second']:.2f}",
            f"{result['floor']['tokens_per_second']:.1f}",
            f"{100 * result['of_floor']:.1f} %",
            " ".join(f"{rate:.2f}" for rate in rates),
            size(result["peak_rss_bytes"]),
        )
    out = output()
    out.print(_headline(results[-1]), "", table, sep="\n", markup=False)


def _explain(
    model: Model,
    lengths: list[int],
    depths: list[int],
    tokens: int,
    repeat: int,
    bounds: Ceilings,
    as_json: bool,
) -> None:
    from dsv4.cli.console import output, progress
    from dsv4.evaluation import profile, speed
    from dsv4.evaluation.machine import reread

    transformer = model.transformer
    profile.require_clock(transformer)
    speed.warm_up(transformer)
    jobs = [("prefill", length) for length in lengths] + [("decode", depth) for depth in depths]
    for kind, count in jobs:
        whole = repeat * count if kind == "prefill" else count + tokens
        with progress(f"{kind} {count}", whole) as done:
            if kind == "prefill":
                shown = profile.profile_prefill(transformer, count, repeat, bounds, done)
            else:
                shown = profile.profile_decode(transformer, count, tokens, bounds, done)
        shown = shown.against(reread(bounds))
        about = _about(model, shown.ceilings)
        if as_json:
            print(json.dumps(about | _profile(shown)), flush=True)
        else:
            if (kind, count) == jobs[0]:
                output().print(_headline(about), markup=False)
            _show_profile(shown)


def _profile(shown: Profile) -> dict[str, Any]:
    return {
        shown.kind: shown.size,
        "tokens_per_second": round(shown.tokens / shown.seconds, 3),
        "ms": round(1e3 * shown.seconds, 4),
        "floor_ms": round(1e3 * shown.floor, 4),
        "bytes": round(shown.bytes),
        "flops": round(shown.flops),
        "of_roofline": round(shown.of_roofline, 4),
        "of_bandwidth": round(shown.of_bandwidth, 4),
        "python": round(shown.python, 4),
        "stages": [
            {
                "stage": row.stage,
                "calls": row.calls,
                "bytes": round(row.bytes),
                "flops": round(row.flops),
                "floor_ms": round(1e3 * row.floor, 4),
                "ms": round(1e3 * row.seconds, 4),
                "gap_ms": round(1e3 * row.gap, 4),
            }
            for row in shown.rows
        ],
    }


def _show_profile(shown: Profile) -> None:
    from rich.table import Table

    from dsv4.cli.console import output

    step = "a step after" if shown.kind == "decode" else "prefill of"
    table = Table(
        title=f"\n{step} {shown.size:,} tokens",
        title_justify="left",
        title_style="bold",
        box=None,
        pad_edge=False,
    )
    names = ("stage", "calls", "MB", "MFLOP", "floor ms", "ms", "gap ms", "of floor", "share")
    for i, name in enumerate(names):
        table.add_column(name, justify="right" if i else "left", no_wrap=True)

    def add(name: str, calls: str, size: float, flops: float, floor: float, seconds: float) -> None:
        table.add_row(
            name,
            calls,
            f"{size / 1e6:,.2f}",
            f"{flops / 1e6:,.2f}",
            f"{1e3 * floor:,.3f}",
            f"{1e3 * seconds:,.3f}",
            f"{1e3 * (seconds - floor):,.3f}",
            f"{100 * floor / seconds:.0f} %" if seconds and floor else "",
            f"{100 * seconds / shown.seconds:.1f} %",
        )

    for row in shown.rows:
        calls = f"{row.calls:g}" if row.calls else ""
        add(row.stage, calls, row.bytes, row.flops, row.floor, row.seconds)
    add("all", "", shown.bytes, shown.flops, shown.floor, shown.seconds)
    out = output()
    out.print(table)
    out.print(
        f"{shown.tokens / shown.seconds:,.2f} tokens/s; {100 * shown.of_roofline:.1f} % of the "
        f"roofline, {100 * shown.of_bandwidth:.1f} % of the read bandwidth; "
        f"Python and dispatch {100 * shown.python:.1f} %",
        markup=False,
    )


def _check(
    model: str,
    text: Path | None,
    ids: Path | None,
    length: int,
    tokens: int,
    threads: int,
    as_json: bool,
) -> None:
    from dsv4.cli.console import note, status
    from dsv4.evaluation.distance import check

    chosen = _ids(model, text, ids, length)
    decoded = min(tokens, len(chosen) - 1)
    with status("comparing"):
        report = check(model, chosen, decoded, threads)
    if as_json:
        print(json.dumps({"model": model} | dataclasses.asdict(report)))
    else:
        _show_report(report)
    for failure in report.failures:
        note(f"failed: {failure}")
    if report.failures:
        raise typer.Exit(1)


def _ids(model: str, text: Path | None, ids: Path | None, length: int) -> list[int]:
    from dsv4 import locate
    from dsv4.checkpoint import read_config
    from dsv4.cli.tokens import read_tokens
    from dsv4.encoding.tokenizer import Tokenizer
    from dsv4.errors import UsageError
    from dsv4.evaluation.speed import random_ids

    if text and ids:
        raise UsageError("--text and --ids are both given", "give one of them")
    folder = locate.folder(model)
    config = read_config(folder)
    if ids:
        chosen = read_tokens(ids)
    elif text:
        try:
            content = text.read_bytes().decode("utf-8")
        except OSError as error:
            raise UsageError(f"cannot read {text}: {error.strerror}", "give a text file") from error
        except UnicodeDecodeError as error:
            raise UsageError(f"{text} is not UTF-8 text", "convert it first") from error
        tokenizer = Tokenizer.from_folder(folder, config.vocab_size)
        chosen = [tokenizer.bos_id, *tokenizer.encode(content)]
    else:
        chosen = random_ids(config.vocab_size, length)
    if len(chosen) < 2:
        raise UsageError("one token is too few to compare", "give at least two")
    return chosen[:length]


def _show_report(report: Report) -> None:
    from rich.table import Table

    from dsv4.cli.console import output

    table = Table(box=None, pad_edge=False)
    names = ("policy", "from", "computed by", "relative L2", "largest", "same arg-max", "mean KL")
    for i, name in enumerate(names):
        table.add_column(name, justify="right" if i > 2 else "left", no_wrap=True)
    for pair in report.pairs:
        how = f"prefill of {report.tokens}" if pair.how == "prefill" else f"{report.decoded} steps"
        distance = pair.distance
        table.add_row(
            pair.of,
            pair.to,
            how,
            f"{distance.relative:.3e}",
            f"{distance.largest:.3e}",
            f"{100 * distance.agreement:.1f} %",
            f"{distance.divergence:.3e}",
        )
    out = output()
    out.print(table, "")
    for row in report.consistency:
        verdict = "equal to the bit" if row.equal else f"largest difference {row.largest:.3e}"
        out.print(f"fast, {row.ways}: {verdict}", markup=False)
