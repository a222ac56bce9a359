"""For tests of the server: it in process and on a socket, and what a scripted model says."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from fastapi.testclient import TestClient

from dsv4.chat.engine import Engine
from dsv4.server.accounts import Accounts
from dsv4.server.app import create_app
from dsv4.server.run import config
from dsv4.server.settings import Settings

Build = Callable[..., Engine]

HELLO: Any = [{"role": "user", "content": "hello"}]
PARAMETERS: Any = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
}
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a city",
        "parameters": PARAMETERS,
    },
}


def calls(*cities: str) -> str:
    """What a model writes to call `weather` for each of these."""
    invokes = "\n".join(
        '<｜DSML｜invoke name="weather">\n'
        f'<｜DSML｜parameter name="city" string="true">{city}</｜DSML｜parameter>\n'
        "</｜DSML｜invoke>"
        for city in cities
    )
    return f"\n\n<｜DSML｜tool_calls>\n{invokes}\n</｜DSML｜tool_calls>"


@contextmanager
def client(
    engine: Engine, accounts: Accounts | None = None, settings: Settings | None = None
) -> Iterator[TestClient]:
    """The application in process."""
    app = create_app(engine, accounts, settings)
    with TestClient(app, raise_server_exceptions=False) as made:
        yield made


@contextmanager
def served(
    engine: Engine, accounts: Accounts | None = None, settings: Settings | None = None
) -> Iterator[str]:
    """The base URL of a server for `engine`, on a free port."""
    settings = settings or Settings()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        app = create_app(engine, accounts, settings)
        server = uvicorn.Server(config(app, settings))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            base = f"http://127.0.0.1:{listener.getsockname()[1]}"
            wait(lambda: server.started)
            yield base
        finally:
            server.should_exit = True
            thread.join()


def wait(condition: Callable[[], bool], seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


def chunks(text: str) -> list[dict[str, Any]]:
    """The JSON of every event of a stream, which has to end in [DONE]."""
    lines = [line for line in text.split("\n\n") if line and not line.startswith(":")]
    assert all(line.startswith("data: ") for line in lines)
    assert lines[-1] == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


def named(text: str) -> list[dict[str, Any]]:
    """The JSON of every event of a stream whose events are named as their values' type."""
    found = []
    for block in text.removesuffix("\n\n").split("\n\n"):
        name, data = block.split("\n")
        value = json.loads(data.removeprefix("data: "))
        assert name == f"event: {value['type']}"
        found.append(value)
    return found
