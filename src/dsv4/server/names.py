"""Names of models: the served one and those of the hosted API that mean it here."""

from __future__ import annotations

from typing import Any

from dsv4.errors import RequestError

ALIASES = {
    "deepseek-chat": False,
    "deepseek-reasoner": True,
    "deepseek-v4-flash": None,
    "deepseek-v4-pro": None,
}
"""Names of the hosted API that mean the served model -> whether they think by default."""

LONG_CONTEXT = "[1m]"
"""Ends a model's name where a client wants a long context; ours is as long as it is."""


class Names:
    """What the served model is called."""

    def __init__(self, served: str, context: int) -> None:
        self.all = (served, *ALIASES)
        self._context = context

    def check(self, name: str) -> None:
        """Raises RequestError for a name that means no model here."""
        if name not in self.all:
            raise unknown(name, self.all)

    def check_claude(self, name: str) -> None:
        """`check` for clients that know names of Anthropic's models alone: these mean ours."""
        if not name.startswith("claude"):
            self.check(name.removesuffix(LONG_CONTEXT))

    def entry(self, name: str) -> dict[str, Any]:
        """One entry of the list of models. Raises RequestError 404."""
        if name not in self.all:
            raise unknown(name, self.all, status=404)
        return {
            "id": name,
            "object": "model",
            "created": 0,
            "owned_by": "dsv4",
            "context_window": self._context,
            "max_output_tokens": self._context,
        }


def unknown(name: str, known: tuple[str, ...], status: int = 400) -> RequestError:
    return RequestError(
        f"Model Not Exist: {name[:80]!r}; this server has {', '.join(known)}",
        status=status,
        param="model",
        code="model_not_found" if status == 404 else "invalid_request_error",
    )
