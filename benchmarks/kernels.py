"""How fast one thread multiplies one token by stored weights, for every instruction set and format.

    python benchmarks/kernels.py [--inputs 1024,4096] [--megabytes 256] [--repeats 7]

Prints GB of weights per second: the median, for a matrix that lies in memory and for one that stays
in the second cache. What the first misses of the second is the memory; a figure that is low in both
is bound by arithmetic. Sets and formats take turns, since the memory of a shared machine varies.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time

import torch
from torch import Tensor

from dsv4.ops.cpu import kernels, threads

CODES = {"bf16": 1, "fp8": 2, "fp4": 4}
"""enum Format of csrc/types.h."""
BITS = {"bf16": 16, "fp8": 8, "fp4": 4}
CACHED = 512 << 10
"""Bytes of the small matrix."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--inputs", default="1024,4096", help="columns of the matrices")
    parser.add_argument("--megabytes", type=int, default=256, help="size of the large matrix")
    parser.add_argument("--repeats", type=int, default=7)
    args = parser.parse_args()
    if kernels is None:
        raise SystemExit("there are no native kernels here; dsv4 doctor says why")
    threads.use(1)
    sets = kernels.instruction_sets()
    data = torch.randint(0, 120, (args.megabytes << 20,), dtype=torch.uint8)
    scales = torch.full((data.nbytes // 16,), 120, dtype=torch.uint8)
    print("inputs  format  " + "  ".join(f"{name:>20}" for name in sets))
    for inputs, form in itertools.product(map(int, args.inputs.split(",")), CODES):
        rates: dict[str, list[list[float]]] = {name: [[], []] for name in sets}
        for _, name in itertools.product(range(args.repeats), sets):
            kernels.use_instruction_set(name)
            for place, size in enumerate((data.nbytes, CACHED)):
                rates[name][place].append(rate(data[:size], scales, form, inputs))
        cells = [
            " / ".join(f"{statistics.median(one):.1f}" for one in rates[name]) for name in sets
        ]
        print(f"{inputs:6}  {form:6}  " + "  ".join(f"{cell:>20}" for cell in cells), flush=True)
    kernels.use_instruction_set(sets[0])
    print("GB/s: from memory / from the second cache")


def rate(data: Tensor, scales: Tensor, form: str, inputs: int) -> float:
    """GB of weights per second, of a matrix that fills `data`."""
    rows = data.nbytes * 8 // BITS[form] // inputs // 16 * 16
    size = rows * inputs * BITS[form] // 8
    x, y = torch.randn(1, inputs), torch.empty(rows)
    times = 1 if size > 1 << 24 else 200
    began = time.perf_counter()
    for _ in range(times):
        kernels.kernels.matmul(
            x.data_ptr(), 1, data.data_ptr(), scales.data_ptr(), CODES[form], rows, inputs,
            0, 1, 0, rows, y.data_ptr(),
        )  # fmt: skip
    return times * size / (time.perf_counter() - began) / 1e9


if __name__ == "__main__":
    main()
