"""`dsv4 doctor`: what this machine has, and which implementation every op runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dsv4.cli.options import JsonOption


def doctor(as_json: JsonOption = False) -> None:
    """Show what this machine has and what dsv4 does with it."""
    from dsv4.cli.console import output, size, write_json

    facts = examine()
    if as_json:
        write_json(facts)
        return
    from rich.markup import escape
    from rich.table import Table

    out = output()
    rows = Table(box=None, show_header=False)
    for name, value in facts.items():
        if name == "ops":
            continue
        shown = size(value) if name.endswith("_bytes") and value is not None else value
        if name == "native_kernels":
            shown = escape(_sentence(value))
        elif isinstance(value, dict):
            shown = ", ".join(f"{key}: {item}" for key, item in value.items()) or "none"
        rows.add_row(name.removesuffix("_bytes").replace("_", " "), str(shown))
    out.print(rows, "")
    table = Table("op", "backend", "why", box=None)
    for op in facts["ops"]:
        table.add_row(op["op"], op["backend"], op["reason"])
    out.print(table)


def examine() -> dict[str, Any]:
    """Facts about the machine, in the order they are shown."""
    import os
    import platform
    import shutil

    import torch

    from dsv4 import locate, ops
    from dsv4.version import __version__

    total, available = memory()
    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "dsv4": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_bytes": total,
        "memory_available_bytes": available,
        "disk_free_bytes": shutil.disk_usage(Path.cwd()).free,
        "torch": torch.__version__,
        "torch_cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "gpu": ", ".join(devices) or "none",
        "native_kernels": kernels(),
        "bundled_models": {name: str(folder) for name, folder in locate.bundled().items()},
        "ops": [
            {"op": row.op, "backend": row.backend, "reason": row.reason} for row in ops.bindings()
        ],
    }


def kernels() -> dict[str, Any]:
    """The C++ kernels: what they run on and could run on, or why there are none.

    `available` is what this machine and this build both have, best first. The same keys either
    way; what is not known is None.
    """
    from dsv4.ops.cpu import native

    have = native.native
    return {
        "instruction_set": have and have.instruction_set(),
        "available": have and have.instruction_sets(),
        "threads": have and have.thread_count(),
        "file": have and have.__file__,
        "missing": native.reason() or None,
        "hint": native.hint() or None,
    }


def _sentence(native: dict[str, Any]) -> str:
    if native["missing"]:
        return f"none: {native['missing']}\nhint: {native['hint']}"
    others = [name for name in native["available"] if name != native["instruction_set"]]
    threads = f"{native['threads']} thread" + "s" * (native["threads"] != 1)
    return f"{native['instruction_set']}, {threads}, also: {', '.join(others) or 'none'}"


def memory() -> tuple[int | None, int | None]:
    """(total, available) bytes of main memory, None where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None, None
    values = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines}
    return values.get("MemTotal"), values.get("MemAvailable")


def _processor() -> str:
    import platform

    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
