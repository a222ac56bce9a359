"""`dsv4 inspect`: what a configuration or folder is made of and what it costs to run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from dsv4.config import ModelConfig

CONTEXTS = (1 << 12, 1 << 17, 1 << 20)
"""Context lengths shown beside the one asked for."""


def inspect(
    model: Annotated[
        str, typer.Argument(help="A preset (flash, pro, ...) or a model.", metavar="MODEL")
    ],
    context: Annotated[
        int, typer.Option(help="Also show cache and work at this many tokens.", min=1, max=1 << 40)
    ] = 1 << 20,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show sizes, tensors, memory and cost of a configuration or folder.

    Everything is computed from the configuration; weights are not read. Ratios compare with
    DeepSeek-V3.2 at the same context.
    """
    from dsv4.cli.console import write_json

    config, source = _configuration(model)
    facts = describe(config, context) | {"model": model, "source": source}
    if as_json:
        write_json(facts)
    else:
        _show(facts, config)


def _configuration(model: str) -> tuple[ModelConfig, str]:
    """The configuration meant by a preset name or a model argument, and where it is from."""
    from pathlib import Path

    from dsv4 import locate, presets

    if model in presets.PRESETS and model not in locate.bundled() and not Path(model).is_dir():
        return presets.preset(model), "preset"
    folder = locate.folder(model)
    from dsv4.checkpoint import read_config  # after the look-up: a wrong name answers at once

    return read_config(folder), str(folder)


def describe(config: ModelConfig, context: int) -> dict[str, Any]:
    """Every figure of `inspect` as plain values, as `--json` prints them."""
    from dsv4.model import cost

    counted, cache, reference = cost.parameters(config), cost.cache(config), cost.V32()
    contexts = sorted({*CONTEXTS, context})
    ratios = config.layer_ratios
    return {
        "config": config.to_released(),
        "layers": {
            "swa": ratios.count(0),
            "csa": ratios.count(4),
            "hca": ratios.count(128),
            "hash_routed": config.num_hash_layers,
            "mtp": config.num_nextn_predict_layers,
        },
        "parameters": {
            "main": counted.main,
            "with_mtp": counted.total,
            "active": counted.active,
            "active_without_head": counted.active - counted.head,
            "parts": {
                name: getattr(counted, name)
                for name in (
                    "embedding head attention compressor indexer router experts "
                    "shared_experts hyper norms engram tables mtp"
                ).split()
            },
        },
        "engram": _engram(config),
        "tensors": _tensors(config),
        "cache": {
            "entry_bytes": cache.entry_bytes,
            "index_entry_bytes": cache.index_bytes,
            "bytes_per_token": cache.per_token,
            "fixed_bytes": cache.fixed,
            "v32_bytes_per_token": reference.bytes_per_token,
            "ratio_to_v32": cache.per_token / reference.bytes_per_token,
            "at": {str(n): cache.at(n) for n in contexts},
        },
        "flops": {str(n): _flops(config, n) for n in contexts},
        "context": context,
    }


def _engram(config: ModelConfig) -> dict[str, Any] | None:
    from dsv4.model import cost

    if config.engram is None:
        return None
    read = cost.lookups(config)
    return {
        "layers": list(config.engram.layer_ids),
        "rows": list(config.engram.rows),
        "rows_per_token": read.rows,
        "bytes_per_token": read.nbytes,
    }


def _flops(config: ModelConfig, context: int) -> dict[str, float]:
    from dsv4.model import cost

    own, reference = cost.flops(config, context), cost.V32().flops(context)
    return {
        "linear": own.linear,
        "indexer": own.indexer,
        "attention": own.attention,
        "total": own.total,
        "fp8_equivalent": own.fp8_equivalent,
        "ratio_to_v32": own.total / reference.total,
        "fp8_equivalent_ratio_to_v32": own.fp8_equivalent / reference.fp8_equivalent,
    }


def _tensors(config: ModelConfig) -> dict[str, Any]:
    """Counts and a table with one row per kind of tensor (numbers in names become `*`)."""
    import re
    from math import prod

    from dsv4.checkpoint import layout

    rows: dict[tuple[str, tuple[int, ...], str], list[int]] = {}
    for spec in layout.tensors(config):
        name = re.sub(r"(?<=\.)\d+(?=\.)", "*", spec.name)
        row = rows.setdefault((name, spec.shape, str(spec.dtype).removeprefix("torch.")), [0, 0])
        row[0] += 1
        row[1] += spec.nbytes
    return {
        "shards": sum(1 for _ in layout.shards(config)),
        "count": sum(count for count, _ in rows.values()),
        "bytes": sum(size for _, size in rows.values()),
        "elements": sum(count * prod(shape) for (_, shape, _), (count, _) in rows.items()),
        "table": [
            {"name": name, "shape": list(shape), "dtype": dtype, "count": count, "bytes": size}
            for (name, shape, dtype), (count, size) in rows.items()
        ],
    }


def _show(facts: dict[str, Any], config: ModelConfig) -> None:
    from rich.markup import escape

    from dsv4.cli.console import output, quantity, size, table

    out = output()
    layers, counted, tensors = facts["layers"], facts["parameters"], facts["tensors"]
    out.print(
        f"[bold]{escape(facts['model'])}[/]: {config.num_hidden_layers} layers "
        f"({layers['swa']} sliding, {layers['csa']} CSA, {layers['hca']} HCA; "
        f"{layers['hash_routed']} hash-routed) + {layers['mtp']} MTP, "
        f"hidden {config.hidden_size}, {config.n_routed_experts} experts, "
        f"{config.num_experts_per_tok} active"
    )
    out.print(
        f"{counted['main'] / 1e9:.{_digits(counted['main'])}f} B parameters, "
        f"{counted['active'] / 1e9:.{_digits(counted['active'])}f} B active per token; "
        f"{tensors['count']:,} tensors in {tensors['shards']} shards, {tensors['bytes']:,} bytes "
        f"({size(tensors['bytes'])})\n"
    )
    parts = table("Parameters", "part", "count", "")
    for name, count in ((name, count) for name, count in counted["parts"].items() if count):
        parts.add_row(name.replace("_", " "), f"{count:,}", quantity(count))
    parts.add_row("all but MTP", f"{counted['main']:,}", quantity(counted["main"]))
    parts.add_row("with MTP", f"{counted['with_mtp']:,}", quantity(counted["with_mtp"]))
    parts.add_row("active per token", f"{counted['active']:,}", quantity(counted["active"]))
    bare = counted["active_without_head"]
    parts.add_row("active without head", f"{bare:,}", quantity(bare))
    out.print(parts, "")

    rows = table("Tensors", "name", "shape", "type", "count", "bytes")
    for row in tensors["table"]:
        shape = " x ".join(map(str, row["shape"]))
        rows.add_row(row["name"], shape, row["dtype"], f"{row['count']:,}", f"{row['bytes']:,}")
    out.print(rows, "")

    memory = facts["engram"]
    if memory is not None:
        out.print(
            f"[bold]Engram[/]: layers {', '.join(map(str, memory['layers']))}; a token reads "
            f"{memory['rows_per_token']} of {sum(memory['rows']):,} rows, "
            f"{memory['bytes_per_token']:,} bytes\n"
        )
    cache = facts["cache"]
    out.print(
        f"[bold]Cache[/]: {cache['bytes_per_token']:,.1f} bytes per token (entry "
        f"{cache['entry_bytes']}, index entry {cache['index_entry_bytes']}) + "
        f"{size(cache['fixed_bytes'])} fixed; V3.2 {cache['v32_bytes_per_token']:,}; "
        f"ratio {100 * cache['ratio_to_v32']:.2f} %\n"
    )
    work = table(
        "Decoding one token (GFLOP)",
        "context",
        "cache",
        "linear",
        "indexer",
        "attention",
        "total",
        "of V3.2",
        "as FP8",
        "of V3.2",
    )
    for n, row in facts["flops"].items():
        work.add_row(
            f"{int(n):,}",
            size(cache["at"][n]),
            *(f"{row[key] / 1e9:.4g}" for key in ("linear", "indexer", "attention", "total")),
            f"{100 * row['ratio_to_v32']:.1f} %",
            f"{row['fp8_equivalent'] / 1e9:.4g}",
            f"{100 * row['fp8_equivalent_ratio_to_v32']:.1f} %",
        )
    out.print(work)


def _digits(count: int) -> int:
    """Decimals that show a count in billions to four or five figures."""
    return 2 if count >= 1e10 else 4
