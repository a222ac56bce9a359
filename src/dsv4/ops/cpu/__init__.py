"""The compiled CPU backend: C++ kernels, where this installation has them."""

from __future__ import annotations

from dsv4.ops.cpu.native import hint, reason
from dsv4.ops.cpu.native import native as kernels
from dsv4.ops.fused import KINDS, Fused, offer


def register() -> None:
    """Offer the native forms of sublayers, or note why there are none."""
    if kernels is None:
        for kind in KINDS:
            KINDS[kind] = Fused(kind, reason=f"no native kernels: {reason()}; {hint()}")
        return
    from dsv4.ops.cpu import engram, model, sublayers, threads

    threads.use(None)
    why = f"native kernels for {kernels.instruction_set()}"
    offer("model", "cpu", model.model, why)
    offer("connections", "cpu", sublayers.connections, why)
    offer("attention", "cpu", sublayers.Attention, why)
    offer("mixture", "cpu", sublayers.mixture, why)
    offer("memory", "cpu", engram.Memory, why)
    offer("collapse", "cpu", sublayers.Collapse, why)
    offer("linear", "cpu", sublayers.Linear, why)
