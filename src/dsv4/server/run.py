"""Running the application: the socket, the log line that names it, the signals."""

from __future__ import annotations

import logging
import socket
import threading
import time
from contextlib import suppress
from types import FrameType

import uvicorn

from dsv4.chat.engine import Engine
from dsv4.errors import UsageError
from dsv4.server.accounts import Accounts
from dsv4.server.app import create_app
from dsv4.server.connection import Connection
from dsv4.server.desk import Desk
from dsv4.server.settings import Settings

logger = logging.getLogger("dsv4.server")

WARM_AFTER = 2.0
"""Seconds after which what the first request with tools needs is loaded."""
FLUSH_SECONDS = 2
"""What is left, once answers were ended, to tell their clients so."""


class Server(uvicorn.Server):
    """Told to stop, it refuses new requests and lets those under way end, up to a deadline; told
    twice, it stops at once."""

    def __init__(self, config: uvicorn.Config, desk: Desk) -> None:
        super().__init__(config)
        self._desk = desk
        self._deadline: float | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._deadline is not None:
            self.should_exit = self.force_exit = True
        else:
            self._deadline = time.monotonic() + self._desk.settings.drain_seconds
            self._desk.draining = True
            if self._desk.busy:
                logger.info("stopping when the answers under way are done; again: at once")
        self._captured_signals.append(sig)

    async def on_tick(self, counter: int) -> bool:
        if await super().on_tick(counter):
            return True
        if self._deadline is None:
            return False
        late = time.monotonic() > self._deadline
        if late:
            self._desk.stop()
        return late or not self._desk.busy


def run(engine: Engine, *, host: str, port: int, accounts: Accounts, settings: Settings) -> None:
    """Serve until SIGINT, which is an ordinary end, or SIGTERM.

    Raises UsageError if the address cannot be used.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.create_server((host, port), family=family, backlog=128)
    except (OSError, OverflowError) as error:
        raise UsageError(
            f"cannot listen on {host}:{port}: {error}", "choose another --host or --port"
        ) from error
    # Once it has shut down, uvicorn raises the signal that asked for it again.
    with listener, suppress(KeyboardInterrupt):
        bound = listener.getsockname()[1]
        shown = f"[{host}]" if ":" in host else host
        logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s")
        logger.info(
            "serving %s (%s) on http://%s:%d",
            engine.model.name,
            engine.model.numerics,
            shown,
            bound,
        )
        app = create_app(engine, accounts, settings)
        warming = threading.Timer(WARM_AFTER, engine.warm)
        warming.daemon = True
        warming.start()
        try:
            Server(config(app, settings), app.state.desk).run(sockets=[listener])
        finally:
            warming.cancel()


def config(app: object, settings: Settings) -> uvicorn.Config:
    """How uvicorn serves an application."""

    class Timed(Connection):
        head_seconds = settings.head_seconds
        write_seconds = settings.write_seconds

    return uvicorn.Config(
        app,  # type: ignore[arg-type]
        log_level="warning",
        http=Timed,
        ws="none",
        server_header=False,
        timeout_graceful_shutdown=FLUSH_SECONDS,
    )
