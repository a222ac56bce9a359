"""Several processes over one model, applied from outside; everything here is harmless in one.

`group` is who there is and how numbers are added up, `sharding` divides a built model.
"""

from dsv4.parallel.group import (
    add,
    alone,
    any_of,
    in_turn,
    joined,
    keep,
    own_part,
    own_parts,
    rank,
    refuse,
    size,
    wait,
    whole,
    wholes,
)

__all__ = [
    "add",
    "alone",
    "any_of",
    "in_turn",
    "joined",
    "keep",
    "own_part",
    "own_parts",
    "rank",
    "refuse",
    "size",
    "wait",
    "whole",
    "wholes",
]
