"""Who answers a batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from dsv4.evaluation.client import Response


class Target(Protocol):
    """An API. `post` is called from many threads at once."""

    def post(self, path: str, body: Mapping[str, Any]) -> Response:
        """The answer, whatever its status. Raises RequestError if there is none."""

    def settle(self) -> None:
        """The end is near: what waits to be asked again is given up."""
