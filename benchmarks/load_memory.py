"""How much memory and time loading a folder takes: `python benchmarks/load_memory.py FOLDER`.

Prints one JSON object. What is measured is `dsv4.load`, which is all that a user's program does.
Peak memory is the process's high-water mark; what the imports alone need is measured first and
subtracted. `dsv4 synth --preset flash --layers 4 FOLDER` makes a folder.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from pathlib import Path

import dsv4
from dsv4.checkpoint import make_plan


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    load = dsv4.load  # imports what it needs
    before, began = peak_bytes(), time.monotonic()
    model = load(folder)
    seconds, peak = time.monotonic() - began, peak_bytes()
    plan = make_plan(folder)
    result = {
        "folder": str(folder),
        "stored_bytes": plan.nbytes,
        "tensors": sum(2 if source.scale is not None else 1 for source in plan.sources),
        "layers": model.config.num_hidden_layers,
        "seconds": round(seconds, 2),
        "baseline_bytes": before,
        "extra_peak_bytes": peak - before,
    }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
