"""Several processes over one model, applied from outside; everything here is harmless in one.

`group` is who there is and how numbers are added up, `sharding` divides a built model.
"""

from dsv4.parallel.group import (
    add,
    alone,
    any_of,
    hand_out,
    in_turn,
    joined,
    keep,
    own_part,
    rank,
    settle,
    size,
    wait,
    whole,
)

__all__ = [
    "add",
    "alone",
    "any_of",
    "hand_out",
    "in_turn",
    "joined",
    "keep",
    "own_part",
    "rank",
    "settle",
    "size",
    "wait",
    "whole",
]
