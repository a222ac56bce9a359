"""Does our own test suite notice the known failures? `make mutations`, or with names of some
`python -m tools.mutations NAME ...`.

Every failure of `evaluation/conformance/faults/` and of `tests/engine_faults.py` is planted into
the process of a test run, which has to fail. Tests of the conformance kit itself are left out: they
plant the same failures. Writes a table to standard output; exit code 1 if a failure survives.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

from tests.engine_faults import ENGINE_FAULTS

from dsv4.evaluation.conformance.faults import FAULTS

ROOT = Path(__file__).resolve().parents[1]
SUITE = ("tests/parity/test_golden.py", "tests/unit/model", "tests/unit/ops")
ENGINE_SUITE = ("tests/parity/test_state.py", "tests/unit/engine/test_core.py")
"""Quickest first: a run ends with the first test that fails."""


def main(names: list[str]) -> int:
    known = [*FAULTS, *ENGINE_FAULTS]
    if unknown := [name for name in names if name not in known]:
        sys.exit(f"no failure is called {', '.join(unknown)}\nhint: one of {', '.join(known)}")
    wanted = names or known
    # Failures of arithmetic change single ops, so they are planted op by op, and what the kernels
    # fuse is not fused: tests that want it fused fail by that alone.
    spoilt = failures("", SUITE) if FAULTS.keys() & set(wanted) else []
    print(f"{len(spoilt)} tests of fused ops are left out", file=sys.stderr)
    print("| | failure | killed by | seconds |\n|---|---|---|---|")
    survivors = 0
    for name in wanted:
        began = time.monotonic()
        if name in ENGINE_FAULTS:
            number = ENGINE_FAULTS[name].number
            killers = failures(name, ENGINE_SUITE, "-x")
        else:
            number = FAULTS[name].number
            killers = failures(name, SUITE, "-x", *(f"--deselect={test}" for test in spoilt))
        survivors += not killers
        told = f"`{killers[0]}`" if killers else "**nothing**"
        print(f"| {number} | `{name}` | {told} | {time.monotonic() - began:.0f} |", flush=True)
    return int(survivors > 0)


def failures(name: str, suite: tuple[str, ...], *options: str) -> list[str]:
    """The tests that fail with a failure planted."""
    command = [sys.executable, "-m", "pytest", "-p", "tests.planted", "-p", "no:cacheprovider"]
    command += [*suite, *options]
    environment = os.environ | {"DSV4_PLANTED": name, "PYTHONDONTWRITEBYTECODE": ""}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    failed = re.findall(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", done.stdout, re.MULTILINE)
    if done.returncode not in (0, 1) or (done.returncode == 1) != bool(failed):
        sys.exit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
