"""Weights that a run leaves as they are."""

from __future__ import annotations

from torch import nn

from dsv4.errors import UsageError


def is_frozen(name: str, parts: tuple[str, ...]) -> bool:
    """Whether a weight has one of `parts` in its name."""
    return any(part in name for part in parts)


def freeze(model: nn.Module, parts: tuple[str, ...]) -> None:
    """Let no gradient move what has one of `parts` in its name. Raises UsageError for parts of no
    name."""
    named = dict(model.named_parameters())
    for part in parts:
        if not part or not any(part in name for name in named):
            raise UsageError(
                f"no parameter has {part!r} in its name",
                "names are those of model.safetensors.index.json",
            )
    for name, parameter in named.items():
        if is_frozen(name, parts):
            parameter.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in named.values()):
        raise UsageError("nothing is left to be trained", "freeze less")
