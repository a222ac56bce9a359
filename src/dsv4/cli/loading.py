"""Loading a model for a command: a line of what happens, and threads that fit its size."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dsv4.chat.model import Model

SMALL = 50_000_000
"""Active parameters below which one thread is faster: the matrices are too small to share, and
threads that wait for each other are many times slower when the machine has other work."""


def load(model: str, numerics: str) -> Model:
    """`dsv4.load`, and one torch thread for a small model unless OMP_NUM_THREADS says how many."""
    import os

    import dsv4
    from dsv4.cli.console import status

    with status(f"loading {model}"):
        import torch

        from dsv4.model.cost import parameters

        loaded = dsv4.load(model, numerics)
    if "OMP_NUM_THREADS" not in os.environ and parameters(loaded.config).active < SMALL:
        torch.set_num_threads(1)
    return loaded
