"""How the server conducts itself, whatever the model."""

from __future__ import annotations

from dataclasses import dataclass

MEBIBYTE = 1 << 20
QUEUE_TOKENS = 8 << 20


@dataclass(frozen=True, slots=True)
class Settings:
    """`most_body`: bytes of a request's body. `per_key`: requests that one key may have under
    way (None: any number). `queue_tokens`: of prompts that may wait in all.
    `keep_alive_seconds`: silence after which a stream says that it lives. `queue_seconds`: how
    long a request may wait for the model; `head_seconds` and `body_seconds`: for the head of a
    request, and for each part of its body. `write_seconds`: how long a client may take nothing
    of its answer. `drain_seconds`: what answers under way get when the server is told to stop.
    `origins`: of web pages that may ask (`*`: all).
    """

    most_body: int = 64 * MEBIBYTE
    per_key: int | None = None
    queue_tokens: int = QUEUE_TOKENS
    keep_alive_seconds: float = 5.0
    queue_seconds: float = 600.0
    head_seconds: float = 10.0
    body_seconds: float = 60.0
    write_seconds: float = 60.0
    drain_seconds: float = 30.0
    origins: tuple[str, ...] = ()
