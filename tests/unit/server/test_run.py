"""The server as a process: how it starts and ends."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.serving import wait
from typer.testing import CliRunner

from dsv4.cli.main import app
from dsv4.encoding.control import BOS, CONTROL_TOKENS, EOS, USER
from dsv4.server.accounts import Keys

SERVE = [sys.executable, "-m", "dsv4", "serve"]
ENDS = dict.fromkeys(map(str, map(CONTROL_TOKENS.index, (BOS, EOS, USER))), -100)
ASK = {"model": "deepseek-chat", "prompt": "hello", "stream": True, "logit_bias": ENDS}
"""What a random model answers without an end."""


@contextmanager
def process(*command: str | Path, **options: Any) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server and its address."""
    whole = [*SERVE, *map(str, command), "--port", "0"]
    with subprocess.Popen(whole, stderr=subprocess.PIPE, text=True, **options) as server:
        assert server.stderr is not None
        try:
            yield server, next(line for line in server.stderr if "serving" in line).split()[-1]
        finally:
            server.kill()


def ended(server: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit code and what was logged since."""
    assert server.stderr is not None
    rest = server.stderr.read()
    return server.wait(60), rest


class Stream:
    """A streamed answer that somebody reads, in a thread."""

    def __init__(self, address: str, most: int) -> None:
        self.events: list[str] = []
        self._asked = (f"{address}/v1/completions", ASK | {"max_tokens": most})
        self._thread = threading.Thread(target=self._read)
        self._thread.start()
        wait(lambda: len(self.events) > 3)

    def _read(self) -> None:
        url, asked = self._asked
        with (
            suppress(httpx.RemoteProtocolError),
            httpx.stream("POST", url, json=asked, timeout=60) as response,
        ):
            for line in filter(None, response.iter_lines()):
                self.events.append(line)

    def finish(self) -> list[str]:
        self._thread.join(60)
        return self.events


def test_ctrl_c_is_a_quiet_end(tiny_folder: Path) -> None:
    with process(tiny_folder) as (server, address):
        assert httpx.get(f"{address}/health").json()["status"] == "ok"
        server.send_signal(signal.SIGINT)
        assert ended(server) == (0, "")


def test_answers_under_way_may_end(tiny_folder: Path) -> None:
    with process(tiny_folder) as (server, address):
        stream = Stream(address, 400)
        server.send_signal(signal.SIGTERM)
        wait(lambda: httpx.get(f"{address}/ready").status_code == 503)
        refused = httpx.post(f"{address}/v1/completions", json=ASK)
        assert refused.status_code == 503
        assert stream.finish()[-1] == "data: [DONE]"
        assert ended(server)[0] in (0, -signal.SIGTERM)


def test_streams_end_with_an_error_at_the_deadline(tiny_folder: Path) -> None:
    with process(tiny_folder, "--drain-seconds", "0.2") as (server, address):
        stream = Stream(address, 4000)
        begun = time.monotonic()
        server.send_signal(signal.SIGINT)
        error = json.loads(stream.finish()[-1].removeprefix("data: "))["error"]
        assert error["type"] == "overloaded_error"
        assert ended(server)[0] == 0
        assert time.monotonic() - begun < 8


def test_told_twice_it_ends_at_once(tiny_folder: Path) -> None:
    with process(tiny_folder) as (server, address):
        stream = Stream(address, 4000)
        for _ in range(2):
            server.send_signal(signal.SIGINT)
            time.sleep(0.3)
        assert ended(server)[0] in (0, 130, -signal.SIGINT)
        assert stream.finish()[-1] != "data: [DONE]"


def test_keys_come_from_options_a_file_and_the_environment(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    monkeypatch.setattr("dsv4.server.run.run", lambda _, **options: seen.append(options))
    file = tmp_path / "keys"
    file.write_text("sk-file\n", encoding="utf-8")
    command = ["serve", str(tiny_folder), "--api-key-file", str(file), "--cors", "http://page"]
    for more, environment, keys in (
        ([], {}, ("sk-file",)),
        (["--api-key", "sk-a", "--api-key", "sk-b"], {}, ("sk-a", "sk-b", "sk-file")),
        ([], {"DSV4_API_KEYS": "sk-one sk-two"}, ("sk-one", "sk-two", "sk-file")),
    ):
        result = CliRunner().invoke(app, [*command, *more], env=environment)
        assert result.exit_code == 0, result.output
        assert seen[-1]["accounts"] == Keys(keys)
        assert seen[-1]["settings"].origins == ("http://page",)
