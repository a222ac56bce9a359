"""How much memory and time loading a folder takes: `python benchmarks/load_memory.py FOLDER`.

Prints one JSON object. Peak memory is the process's high-water mark; what the imports alone need
is measured first and subtracted. `dsv4 synth --preset flash --layers 4 FOLDER` makes a folder.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from pathlib import Path

from dsv4.checkpoint import load_with_report


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    before, began = peak_bytes(), time.monotonic()
    model, report = load_with_report(folder)
    result = {
        "folder": str(folder),
        "stored_bytes": report.nbytes,
        "tensors": report.tensors,
        "layers": model.config.num_hidden_layers,
        "seconds": round(time.monotonic() - began, 2),
        "baseline_bytes": before,
        "extra_peak_bytes": peak_bytes() - before,
    }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
