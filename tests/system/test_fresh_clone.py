"""What a newcomer does: clone, `make serve`, ask. Sets up its own environment, so it is slow."""

from __future__ import annotations

import socket
import subprocess
import time
from pathlib import Path

import httpx
import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_clone_and_make_serve(tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with subprocess.Popen(["make", "serve", f"PORT={port}"], cwd=clone) as server:
        try:
            end = time.monotonic() + 1200
            while True:
                try:
                    health = httpx.get(f"http://127.0.0.1:{port}/health").json()
                    break
                except httpx.TransportError:
                    assert server.poll() is None, "make serve ended"
                    assert time.monotonic() < end, "the server did not start"
                    time.sleep(1)
            assert (health["status"], health["model"]) == ("ok", "nano")
        finally:
            server.terminate()


@pytest.mark.slow
def test_an_installed_wheel_brings_its_model(tmp_path: Path) -> None:
    """Not editable and away from the checkout: the bundled model has to be inside."""
    subprocess.run(["python3", "-m", "venv", str(tmp_path / "venv")], check=True)
    python = str(tmp_path / "venv" / "bin" / "python")
    for package in ("torch==2.13.0", str(ROOT)):
        subprocess.run([python, "-m", "pip", "install", "--quiet", package], check=True)
    done = subprocess.run(
        [str(tmp_path / "venv" / "bin" / "dsv4"), "generate", "nano", "The", "--max-tokens", "3"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
