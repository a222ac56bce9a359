"""Write docs/cli.md from the help texts of the commands, or check that it is up to date."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from pathlib import Path

PATH = Path(__file__).resolve().parents[1] / "docs" / "cli.md"

HEAD = """\
# Command line

Written by `make docs` from the help of the commands; edit the docstrings in `src/dsv4/cli`.

Results go to standard output, everything else to standard error. Exit codes: 0 done, 1 an
unexpected error or a failed check, 2 wrong arguments, 3 a wrong configuration, 4 a damaged or
missing model, 5 text that cannot be encoded, 6 a state that is no longer there, 7 a wrong corpus,
8 a request that cannot be served, 9 a training that cannot go on, 130 interrupted.
"""


def help_of(arguments: list[str]) -> str:
    """What `dsv4 ARGUMENTS --help` prints on a terminal of 80 columns."""
    from dsv4.cli.main import main

    with contextlib.redirect_stdout(io.StringIO()) as shown:
        assert main([*arguments, "--help"]) == 0
    return "\n".join(line.rstrip() for line in shown.getvalue().strip().splitlines())


def reference() -> str:
    from dsv4.cli.main import COMMANDS

    parts = [HEAD, f"## dsv4\n\n```text\n{help_of([])}\n```\n"]
    parts += [f"## dsv4 {name}\n\n```text\n{help_of([name])}\n```\n" for name in COMMANDS]
    return "\n".join(parts)


def main() -> int:
    os.environ["COLUMNS"] = "80"
    text = reference()
    if "--check" not in sys.argv:
        PATH.write_text(text, encoding="utf-8")
        return 0
    if PATH.is_file() and PATH.read_text(encoding="utf-8") == text:
        return 0
    print("error: docs/cli.md is not what the commands say\nhint: make docs")
    return 1


if __name__ == "__main__":
    sys.exit(main())
