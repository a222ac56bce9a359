"""Every command of the README runs, in the order in which it stands there."""

from __future__ import annotations

import io
import json
import re
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from dsv4.cli.main import main
from dsv4.evaluation import machine

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


def commands() -> list[str]:
    lines = [line.split("  # ")[0].strip() for block in blocks("sh") for line in block.splitlines()]
    return [line for line in lines if line]


def make(*arguments: str) -> list[str]:
    """`make ...` in the environment the tests run in, taking its stamps as up to date."""
    stamps = [f"-o{sys.prefix}/{name}" for name in (".torch", ".ready", ".ready-dev", ".native")]
    return ["make", *stamps, f"VENV={sys.prefix}", *arguments]


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Where `make serve` listens, started as the README says but on a free port."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = make("serve", f"PORT={port}")
    server = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        end = time.monotonic() + 60
        while True:
            try:
                assert httpx.get(f"http://127.0.0.1:{port}/health").json()["status"] == "ok"
                break
            except httpx.TransportError:
                assert server.poll() is None, server.communicate()[0]
                assert time.monotonic() < end, "the server did not start"
                time.sleep(0.2)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.communicate(timeout=30)


def test_every_command_is_of_a_kind_that_is_tested() -> None:
    kinds = {command.split()[0] for command in commands()}
    assert kinds == {"make", "curl", "dsv4", "echo"}
    assert {c for c in commands() if c.startswith("make")} == {"make serve", "make test"}


def test_make_serve_and_curl(address: str) -> None:
    (command,) = (c for c in commands() if c.startswith("curl"))
    words = shlex.split(command)
    url = words[1].replace("http://127.0.0.1:8000", address)
    body = json.loads(words[words.index("-d") + 1])
    answer = httpx.post(url, json=body, timeout=120)
    assert answer.status_code == 200
    assert answer.json()["choices"][0]["message"]["content"]
    assert answer.json()["model"] == "nano"


def test_make_test() -> None:
    done = subprocess.run(
        make("test", "ARGS=--collect-only tests/unit/cli/test_locate.py"),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert "test_locate.py" in done.stdout


SHORTER = {
    "bench": "--threads 1 --prefill 130 --decode 130 --tokens 4 --repeat 1",
}
"""What a command that measures is told beside what the README says, lest it take half a minute."""


def test_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "README.md").write_text(README[:2000], encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(machine, "BUFFER", 1 << 20)
    monkeypatch.setattr(machine, "MATRIX", 64)
    (tmp_path / "out").mkdir()
    monkeypatch.setattr("sys.stdin", io.StringIO("/help\n/exit\n"))
    for command in commands():
        if command.startswith("echo"):
            subprocess.run(["sh", "-c", command], check=True)
        elif command.startswith("dsv4"):
            words = shlex.split(command)[1:]
            words += SHORTER.get(words[0], "").split()
            assert main(words) == 0, (command, capsys.readouterr().err)
    assert (tmp_path / "out" / "logits.safetensors").is_file()
    assert (tmp_path / "out" / "tiny-transformers" / "config.json").is_file()


def test_python(capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = blocks("python")
    exec(compile(code, "README.md", "exec"), {})
    assert "Finish(" in capsys.readouterr().out


def test_files_that_it_names_exist() -> None:
    for link in re.findall(r"\]\(([^)]+)\)", README):
        assert (ROOT / link).exists(), link
    for folder in re.findall(r"^  (\w+)/ ", README, re.MULTILINE):
        assert (ROOT / "src" / "dsv4" / folder).is_dir(), folder
