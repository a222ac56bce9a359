"""Running the application: the socket, the log line that names it, the signals."""

from __future__ import annotations

import logging
import socket
from contextlib import suppress

import uvicorn

from dsv4.chat.engine import Engine
from dsv4.errors import UsageError
from dsv4.server.app import create_app

logger = logging.getLogger("dsv4.server")


def run(engine: Engine, *, host: str, port: int) -> None:
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
        config = uvicorn.Config(
            create_app(engine),
            log_level="warning",
            timeout_graceful_shutdown=5,
        )
        uvicorn.Server(config).run(sockets=[listener])
