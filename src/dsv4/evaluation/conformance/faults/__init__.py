"""Known failures of V4 implementations, as changes of our reference.

Every one was seen in another code base (architecture notes, section 16, from which the numbers
are). Each is a context manager under which the model computes what an implementation with that
failure computes, op by op: that is how the kit proves that it would notice, and how it names what
it finds. The changes are global and meant for a process of its own; kernels ignore them.
"""

from __future__ import annotations

from dsv4.errors import UsageError
from dsv4.evaluation.conformance.faults import entries, experts, formats, positions, streams
from dsv4.evaluation.conformance.faults.fault import Fault

__all__ = ["FAULTS", "Fault", "fault"]

FAULTS: dict[str, Fault] = {
    name: fault
    for part in (positions, entries, streams, experts, formats)
    for name, fault in part.FAULTS.items()
}


def fault(name: str) -> Fault:
    """The fault called `name`; raises UsageError."""
    if name not in FAULTS:
        raise UsageError(f"no known failure is called {name!r}", f"one of {', '.join(FAULTS)}")
    return FAULTS[name]
