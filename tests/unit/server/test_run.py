"""The server as a process: how it starts and ends."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import httpx


def test_ctrl_c_is_a_quiet_end(tiny_folder: Path) -> None:
    command = [sys.executable, "-m", "dsv4", "serve", str(tiny_folder), "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        address = next(line for line in server.stderr if "serving" in line).split()[-1]
        assert httpx.get(f"{address}/health").json()["status"] == "ok"
        server.send_signal(signal.SIGINT)
        rest = server.stderr.read()
        assert (server.wait(60), rest) == (0, "")
