"""The outer side of the sandbox: starts a confined interpreter, watches it, says how it ended."""

from __future__ import annotations

import json
import os
import secrets
import selectors
import signal
import struct
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from dsv4.errors import UsageError
from dsv4.evaluation.sandbox import confine

End = Literal["done", "exit", "error", "time", "memory", "output"]
"""How a run ended: behind its last line; before that, with exit code 0; with an exception, another
exit code or a signal; over a limit."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one run. seconds: by the clock, and of processor time. memory: bytes of address space
    (an empty interpreter takes 20 MB). output: bytes printed. Files are never written, processes
    never started, whatever these are."""

    seconds: float = 10.0
    memory: int = 1 << 30
    output: int = 1 << 20


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a program. `error`: the end of what it wrote to standard error."""

    end: End
    output: str
    error: str
    seconds: float


def run(
    code: str, *, stdin: str = "", name: str = "__main__", limits: Limits | None = None
) -> Outcome:
    """Run Python code that nobody has read, with the standard library, on this interpreter.

    It reads `stdin`; `name` is its `__name__`. Code that looks for the sandbox's own mark in memory
    could forge "done"; what it cannot do is leave the sandbox (see `confine`).

    Raises UsageError where this machine cannot confine it: nothing is ever run without.
    """
    limits = limits or Limits()
    if sys.platform != "linux":
        raise _unable(f"{sys.platform} has neither Landlock nor seccomp")
    token = secrets.token_hex(16)
    task = {
        "code": code,
        "name": name,
        "seconds": int(limits.seconds) + 1,
        "memory": limits.memory,
        "token": token,
    }
    data = json.dumps(task).encode()
    given = struct.pack("<Q", len(data)) + data + stdin.encode()
    began = time.monotonic()
    # The folder is empty, and the code cannot even list it.
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen(
            [sys.executable, "-P", "-s", "-S", "-B", str(Path(confine.__file__))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=folder,
            env={"LANG": "C.UTF-8", "PYTHONHASHSEED": "0"},
            start_new_session=True,
        )
        with process:
            try:
                output, error, over = _talk(process, given, began + limits.seconds, limits.output)
            finally:
                process.kill()
    seconds = time.monotonic() - began
    said = error.decode("utf-8", "replace")
    if process.returncode == confine.CANNOT:
        raise _unable(said.strip().removeprefix("dsv4 sandbox: "))
    end = over or _end(process.returncode, said, token)
    said = said.replace(token, "")
    return Outcome(end, output.decode("utf-8", "replace"), said[-2000:], seconds)


def _end(code: int, said: str, token: str) -> End:
    """How a program ended that stayed within the limits that are watched from outside."""
    if code == 0:
        return "done" if token in said else "exit"
    if code in (-signal.SIGXCPU, -signal.SIGKILL):
        return "time"  # of the processor: the kernel ended it
    return "memory" if said.rstrip().endswith("MemoryError") else "error"


def _talk(
    process: subprocess.Popen[bytes], given: bytes, until: float, most: int
) -> tuple[bytes, bytes, End | None]:
    """What it wrote on both streams until it ended, and which limit it went over."""
    assert process.stdin and process.stdout and process.stderr
    written = {process.stdout: bytearray(), process.stderr: bytearray()}
    over: End | None = None
    with selectors.DefaultSelector() as selector:
        os.set_blocking(process.stdin.fileno(), False)
        selector.register(process.stdin, selectors.EVENT_WRITE)
        for stream in written:
            selector.register(stream, selectors.EVENT_READ)
        while over is None and any(stream in selector.get_map() for stream in written):
            left = until - time.monotonic()
            ready = selector.select(max(left, 0)) if left > 0 else []
            if not ready:
                over = "time"
            for key, _ in ready:
                if key.fileobj is process.stdin:
                    given = _write(process, given)
                    if not given:
                        selector.unregister(process.stdin)
                        process.stdin.close()
                    continue
                stream = next(one for one in written if one is key.fileobj)
                part = os.read(key.fd, 1 << 16)
                if not part:
                    selector.unregister(stream)
                written[stream] += part
                if sum(map(len, written.values())) > most:
                    over = "output"
    if over is None:
        try:
            process.wait(max(until - time.monotonic(), 0.01))
        except subprocess.TimeoutExpired:  # it closed its streams and goes on
            over = "time"
    return bytes(written[process.stdout]), bytes(written[process.stderr]), over


def _write(process: subprocess.Popen[bytes], given: bytes) -> bytes:
    """What is left to be given after as much as fits now; nothing, once nobody reads."""
    assert process.stdin
    try:
        return given[os.write(process.stdin.fileno(), given[: 1 << 16]) :]
    except BlockingIOError:
        return given
    except BrokenPipeError:
        return b""


@cache
def check() -> None:
    """Raises UsageError where this machine cannot run a model's code."""
    outcome = run("pass")
    if outcome.end != "done":
        raise _unable(outcome.error.strip()[-300:] or outcome.end)


def _unable(why: str) -> UsageError:
    return UsageError(
        f"code of a model cannot be shut in here: {why}",
        "it needs Linux 5.13 or newer with Landlock and seccomp, on x86-64 or 64-bit ARM; "
        "leave out the benchmarks that run code",
    )
